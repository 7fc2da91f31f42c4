"""The recipes that the built-in tasks come with, and where each of their numbers is from."""

from rebatch.averaging import Lookahead
from rebatch.recipe import AdamW, Epochs, Recipe, Sgd
from rebatch.reduction import with_loss_reduction
from rebatch.schedule import Cosine, MultiStep, PiecewiseConstant, PiecewiseLinear

# Tuned at batch 32, on the validation split, with seeds that no study uses: results/digits-reference/tuning.json.
DIGITS = Recipe(
    batch_size=32,
    optimizer=Sgd(lr=0.025, momentum=0.9, weight_decay=1e-4),
    schedule=MultiStep(milestones=(0.5, 0.75), factor=0.1),
    budget=Epochs(20),
)

# The same net without batch norm, its rate chosen in the same way: results/digits-reference/tuning-plain.json.
DIGITS_PLAIN = DIGITS.with_lr(0.05)

# The paper's regime for F1: .1, then .01, .001, .0001 from epochs 10, 20, 30 of 50; clipping at 5.
F1 = Recipe(
    batch_size=128,
    optimizer=Sgd(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=MultiStep(milestones=(0.2, 0.4, 0.6), factor=0.1),
    budget=Epochs(50),
    max_grad_norm=5.0,
)

# The reference recipes of Hoffer et al. (2017), as their code has them where the paper is silent: small batch, all
# weights decayed, gradients clipped at 5. Milestones are written as epoch / epochs. No recipe was tuned on a test set.

# He et al.'s rate with the one drop that the paper's figures show.
RESNET44 = Recipe(
    batch_size=128,
    optimizer=Sgd(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=MultiStep(milestones=(81 / 100,), factor=0.1),
    budget=Epochs(100),
    max_grad_norm=5.0,
)
# As long as the authors' code plans it, though its script stops at 100: drops at 81 and 122 of 164 epochs.
RESNET44_PLANNED = RESNET44.replace(
    schedule=MultiStep(milestones=(81 / 164, 122 / 164), factor=0.1), budget=Epochs(164)
)
# The same shape in 15 epochs, for studies on a CPU.
RESNET8 = RESNET44.replace(budget=Epochs(15))

# What the authors' code does to C1 and C3: no momentum, and a rate that rises tenfold at epoch 60 before it falls.
C1_CODE = Recipe(
    batch_size=128,
    optimizer=Sgd(lr=1e-3, weight_decay=5e-4),
    schedule=PiecewiseConstant(points=((60 / 200, 10.0), (120 / 200, 1.0), (180 / 200, 0.1))),
    budget=Epochs(200),
    max_grad_norm=5.0,
)
# Which must be a slip: it leaves both nets undertrained. Here: momentum, and drops where the code changes the rate.
C1 = C1_CODE.replace(
    optimizer=Sgd(lr=0.05, momentum=0.9, weight_decay=5e-4),
    schedule=MultiStep(milestones=(60 / 200, 120 / 200, 180 / 200), factor=0.1),
)

# VGG is not in the authors' code: the regime of their later convNet.pytorch, which is the wide-residual paper's too.
VGG = Recipe(
    batch_size=128,
    optimizer=Sgd(lr=0.1, momentum=0.9, weight_decay=5e-4),
    schedule=MultiStep(milestones=(60 / 200, 120 / 200, 160 / 200), factor=0.2),
    budget=Epochs(200),
    max_grad_norm=5.0,
)

# The authors' code: .1, .02, .004, then 1e-4 from epoch 140. Epochs and batch are not given: the original's 200, 128.
WRN16_4 = Recipe(
    batch_size=128,
    optimizer=Sgd(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=PiecewiseConstant(points=((60 / 200, 0.2), (120 / 200, 0.04), (140 / 200, 0.001))),
    budget=Epochs(200),
    max_grad_norm=5.0,
)
# Zagoruyko and Komodakis (2016), but for the clipping that all arms of the comparison have.
WRN16_4_PREACT = VGG.replace(optimizer=Sgd(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4))

# .01, .005, .001, 5e-4, 1e-4 from epochs 0, 10, 15, 20, 25; no decay from 15 on. The number of epochs is not given: 30
# make the last phase as long as those before. Nor is the batch: 256, the default of the authors' script.
ALEXNET = Recipe(
    batch_size=256,
    optimizer=Sgd(lr=0.01, momentum=0.9, weight_decay=5e-4, weight_decay_until=15 / 30),
    schedule=PiecewiseConstant(points=((10 / 30, 0.5), (15 / 30, 0.1), (20 / 30, 0.05), (25 / 30, 0.01))),
    budget=Epochs(30),
    max_grad_norm=5.0,
)

# The recipes of Page's series (2018), from his code. It trains on all 50,000 images and looks at the test set; here are
# 45,000 to train on and 5,000 to choose on, so an epoch has a tenth fewer steps. The rate is read at i / T in step
# i = 0, 1, ...; his is read from 1 on: his last step has rate 0 where here the first one does. Every parameter decays,
# and momentum sums steps.


def _page(lr: float) -> Sgd:
    """The optimizer of the series: `lr` for the mean loss."""
    return Sgd(lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4, lr_in_buffer=True)


# Parts 1 and 2: 0, 0.1, 0.005, 0 at epochs 0, 15, 30, 35. The loss is summed: lr / 128 and 128 x decay, on every batch
# alike, also on the last one of 72.
PAGE_128 = with_loss_reduction(
    Recipe(
        batch_size=128,
        optimizer=_page(0.1),
        schedule=PiecewiseLinear(points=((0.0, 0.0), (15 / 35, 1.0), (30 / 35, 0.05), (1.0, 0.0))),
        budget=Epochs(35),
    ),
    "sum",
)
# Part 2 at a batch of 512: 4 x 0.1 and then 10 % more, but the late knot stays at 0.005.
PAGE_512 = with_loss_reduction(
    Recipe(
        batch_size=512,
        optimizer=_page(0.44),
        schedule=PiecewiseLinear(points=((0.0, 0.0), (15 / 35, 1.0), (30 / 35, 0.005 / 0.44), (1.0, 0.0))),
        budget=Epochs(35),
    ),
    "sum",
)

# Part 4 (dawn.py): 0, 0.4, 0 at epochs 0, 5, 24. A last batch that is not full is left out, so that mean and sum agree.
RESNET9 = Recipe(
    batch_size=512,
    optimizer=_page(0.4),
    schedule=PiecewiseLinear(points=((0.0, 0.0), (5 / 24, 1.0), (1.0, 0.0))),
    budget=Epochs(24),
    last_batch="drop",
)

# airbench94 (Jordan, 2024) writes its numbers per 1,024 examples and free of the momentum: it gives torch's SGD, on the
# loss summed over the batch, the rate 11.5 / K and decays by 0.0153 x 1,024 / K of the weights in a step, with
# K = 1,024 (1 + 1 / (1 - 0.85)). For the mean loss the rate is 1,024 times that, 11.5 / (1 + 1 / 0.15) = 1.5, and the
# decay is the part of a step over that rate, 0.0153 / 11.5. Batch norm's biases have 64 times the rate and the same
# decay of a step. The rate rises from 0.2 to 1 at 0.23 of the run and falls to 0.07. Lookahead as in its
# legacy/airbench94.py; airbench94.py begins it after 3 epochs and goes back to the slow weights after each epoch too.
# Not as there: 45,000 images to train on (43 steps an epoch, not 48), float32 or bfloat16 and not float16, and the
# whitening layer's bias is trained to the end and not for 3 epochs.
FAST94 = Recipe(
    batch_size=1024,
    optimizer=Sgd(lr=1.5, momentum=0.85, nesterov=True, weight_decay=0.0153 / 11.5, norm_bias_lr_factor=64),
    schedule=PiecewiseLinear(points=((0.0, 0.2), (0.23, 1.0), (1.0, 0.07))),
    budget=Epochs(9.9),
    last_batch="drop",
    label_smoothing=0.2,
    averaging=Lookahead(decay=0.95, every=5, power=3.0),
)

# Our stand-in for Page's network on a CPU, trained as that is but shorter: knots at epochs 0, 5, 10, 12. Its rate is
# the best of .1 to 1.6 on the validation split, one seed that no study uses: results/proxy-reference/tuning.json.
PROXY = Recipe(
    batch_size=128,
    optimizer=_page(0.2),
    schedule=PiecewiseLinear(points=((0.0, 0.0), (5 / 12, 1.0), (10 / 12, 0.05), (1.0, 0.0))),
    budget=Epochs(12),
)

# A batch of 16 sequences of 64 bytes, 1,024 tokens. The rate was chosen among .001, .002, .004, .008, .016 and .032 on
# the validation windows of Python's own library, one seed that no study uses. Of 600 kB in 3 epochs .016 is the best
# (2.075 nats; .008 2.110, .004 2.150, .032 2.181), of 60 kB in 5 epochs .004 (2.514; .008 2.595, .016 2.925): .008
# loses little with either. The other numbers were not tuned.
CHAR_LM = Recipe(
    batch_size=16,
    optimizer=AdamW(lr=0.008, betas=(0.9, 0.99), weight_decay=0.1),
    schedule=Cosine(warmup=0.1),
    budget=Epochs(5),
    max_grad_norm=1.0,
)
