"""Questions of our own, as studies."""
