"""The sweep of laws: every class of torch.distributions and of Pyro, each regime of its parameters, against exact
gradients: each cell right or refused."""
