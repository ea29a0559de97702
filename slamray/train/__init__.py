"""Training loops: no Ray, no folders of other stages."""
