"""The same steps written for sampleprop and for each library beside it, as the users of each would write them."""
