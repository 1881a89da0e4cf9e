"""Images without ground truth: the test set of a data set, or pictures of one's own."""

from collections.abc import Sequence
from pathlib import Path

from axialseg.datasets.image_file import read_rgb
from axialseg.datasets.inspection.images import ImagesInspector
from axialseg.datasets.inspection.inspector import Inspector
from axialseg.datasets.sample import PanopticSample
from axialseg.errors import UserError
from axialseg.panoptic.categories import Categories


class ImageFolder:
    """All images of a folder, in the order of their names; an image's id is its name's stem."""

    def __init__(
        self, folder: str | Path, categories: Categories, suffixes: Sequence[str] = (".jpg", ".png")
    ) -> None:
        """Lists the files.

        Args:
            folder: where the images are; folders in it are left out.
            categories: the classes that are to be found in them.
            suffixes: endings of images, in lower case.

        Raises:
            UserError: the folder is missing or holds no images.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder} does not exist; give the folder of the images.")
        self.categories = categories
        self.files = sorted(
            path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file()
        )
        if not self.files:
            raise UserError(f"{folder} holds no image ({', '.join(suffixes)}); unpack them there.")

    def inspector(self) -> Inspector:
        """What checks the images, see `inspection.Inspector`."""
        names = [path.name for path in self.files]
        return ImagesInspector(self.categories, self.files[0].parent, names, self.files[0].parent)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def read(self, index: int) -> PanopticSample:
        """Reads image `index`.

        Raises:
            UserError: the image is missing or damaged.
        """
        path = self.files[index]
        image = read_rgb(path)
        image.setflags(write=False)
        return PanopticSample(image, None, path.stem, str(path))
