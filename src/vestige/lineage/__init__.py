"""Do two models share an initialisation? It decides whether hidden traits can pass between them."""
