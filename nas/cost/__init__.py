"""What a network costs: `formula` by arithmetic, `measure` by counting on the built network.

params: trainable parameters. macs: multiply-adds of convolutions and linear layers, bias adds not counted (fvcore
calls them flops). activations: output elements of all convolutions, those inside gates and attention included.
All three are exact integers, for one image. Nothing is imported here: `formula` must not pull in torch.
"""
