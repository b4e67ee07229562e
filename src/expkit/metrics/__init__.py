"""Judges that classify images, and measures of similarity between images and sets of images."""

from typing import TYPE_CHECKING

from expkit.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from expkit.metrics.classifiers import PlainClassifier as PlainClassifier
    from expkit.metrics.classifiers import ResidualClassifier as ResidualClassifier
    from expkit.metrics.classifiers import StridedClassifier as StridedClassifier
    from expkit.metrics.judges import CLIP as CLIP
    from expkit.metrics.judges import first_digit_judge as first_digit_judge
    from expkit.metrics.judges import judge_distance as judge_distance
    from expkit.metrics.judges import second_digit_judge as second_digit_judge
    from expkit.metrics.judges import shipped_judge as shipped_judge

EXPORTS = {
    "PlainClassifier": "classifiers",
    "ResidualClassifier": "classifiers",
    "StridedClassifier": "classifiers",
    "CLIP": "judges",
    "first_digit_judge": "judges",
    "judge_distance": "judges",
    "second_digit_judge": "judges",
    "shipped_judge": "judges",
}
lazy_exports(__name__, EXPORTS)
