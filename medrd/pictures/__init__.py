"""Picture files -> :class:`Picture`, at the depth that the file has, and masks beside them."""

from medrd.pictures.picture import (
    DEFAULT_MAX_PIXELS,
    Picture,
    read_picture,
    read_picture_mask,
)

__all__ = ["DEFAULT_MAX_PIXELS", "Picture", "read_picture", "read_picture_mask"]
