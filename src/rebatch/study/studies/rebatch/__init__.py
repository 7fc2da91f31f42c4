"""Our own questions: what the software's advice rests on."""
