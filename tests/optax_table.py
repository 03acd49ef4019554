"""Optimizers of optax that a recipe may name, with arguments to try them with."""

# Optimizers that are a GradientTransformation of gradients alone: all of optax's own, and of its
# `contrib` nearly all.
OPTIMIZERS = {
    "adabelief": {}, "adadelta": {}, "adan": {}, "adagrad": {}, "adafactor": {}, "adam": {},
    "adamax": {}, "adamaxw": {}, "adamw": {"weight_decay": 0.1}, "amsgrad": {},
    "fromage": {}, "lamb": {"weight_decay": 0.1}, "lars": {}, "lion": {}, "nadam": {},
    "nadamw": {}, "novograd": {}, "optimistic_gradient_descent": {},
    "radam": {}, "rmsprop": {}, "rprop": {}, "sgd": {"momentum": 0.9, "nesterov": True},
    "sign_sgd": {}, "sm3": {}, "yogi": {}, "contrib.acprop": {}, "contrib.ademamix": {},
    "contrib.adopt": {}, "contrib.madgrad": {}, "contrib.muon": {}, "contrib.prodigy": {},
    "contrib.schedule_free_adamw": {}, "contrib.schedule_free_sgd": {},
    "contrib.simplified_ademamix": {}, "contrib.cocob": {}, "contrib.dadapt_adamw": {},
    "contrib.dog": {}, "contrib.dowg": {},
}  # fmt: skip
