"""The stage: real servers on loopback, four people, and a gateway between them. Nothing here serves production."""
