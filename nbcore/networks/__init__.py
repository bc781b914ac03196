"""Networks as pure functions of parameters: their layers, inputs and outputs."""
