"""How fast modspec is: against the machine's own matrix products, and against one plain network in PyTorch"""
