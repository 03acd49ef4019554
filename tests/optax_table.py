"""Optimizers of optax that a recipe may name, with arguments to try them with."""

# Every optimizer of optax that is a GradientTransformation of gradients alone.
OPTIMIZERS = {
    "adabelief": {}, "adadelta": {}, "adan": {}, "adagrad": {}, "adafactor": {}, "adam": {},
    "adamax": {}, "adamaxw": {}, "adamw": {"weight_decay": 0.1}, "amsgrad": {},
    "fromage": {}, "lamb": {"weight_decay": 0.1}, "lars": {}, "lion": {}, "nadam": {},
    "nadamw": {}, "novograd": {}, "optimistic_gradient_descent": {},
    "radam": {}, "rmsprop": {}, "rprop": {}, "sgd": {"momentum": 0.9, "nesterov": True},
    "sign_sgd": {}, "sm3": {}, "yogi": {},
}  # fmt: skip
