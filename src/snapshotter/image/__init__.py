"""Images: read from files, made of store paths, written, and looked into.

archive, places    OCI layouts and archives of `docker save`, read without belief
inspection         layers checked before anybody unpacks them
trees, builder     images of store paths; bare: of nothing but one
storeimage         what a reference ``nix:0/nix/store/…`` means
layout             images written to files
locations          all of these, and registries, as users write them
"""
