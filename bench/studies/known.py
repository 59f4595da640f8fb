"""The studies of training laws that the project runs.

Arms, primaries and outcome are those of the text below, and were written before a run. FD is that
of 10,000 images under DPM-Solver++(2M) on Karras's schedule at 50 evaluations, on the features of
EfficientNet-Lite2, which measured nothing. v_fid is measured on EfficientNet-Lite0.
"""

from bench.studies.plan import Arm, Study

_ONLINE = "warmup=300, every=100"  # the law follows the network from step 300 of 2,200 on
_HALF = "ConstantRate(v_fid, xi=0.5, coordinate=angle)"

_COSINE = Arm("cosine", primary=False)
_EDM = Arm("edm", "LogNormal")
_V_X = Arm("v_x", f"OnlineConstantRate(v_x, {_ONLINE})")
_V_FID_HALF = Arm("v_fid-half", _HALF)


def cifar10_training() -> Study:
    """Laws of noise levels in training, on CIFAR-10's images as JPEGs (cifar10-q75).

    The last two arms are no primaries. They tell where samples go from what the loss weighs:
    v_fid's law with the loss of cosine's, and cosine's law with the loss of v_fid's.
    """
    return Study(
        name="cifar10-training",
        title="Training laws on cifar10-q75",
        steps=2_200,
        arms=(
            _COSINE,
            _EDM,
            _V_X,
            Arm("v_x+v_cos", f"OnlineConstantRate(v_x, {_ONLINE}, mixed=v_cos)"),
            Arm("v_fid", "ConstantRate(v_fid)"),
            _V_FID_HALF,
            Arm("v_fid+v_cos", "ConstantRate(mix({v_fid: 0.5, v_cos: 0.5}))"),
            Arm("v_eps-half", f"OnlineConstantRate(v_eps, xi=0.5, coordinate=angle, {_ONLINE})"),
            Arm("v_fid-half with loss of cosine", _HALF,
                "Importance(target=Native)", primary=False),
            Arm("cosine with loss of v_fid-half", "Native", f"Importance(target={_HALF})",
                primary=False),
        ),
    )  # fmt: skip


def fmnist_training() -> Study:
    """The four laws that matter, on Fashion-MNIST, with the network of fmnist-pixel."""
    return Study(
        name="fmnist-training",
        title="Training laws on Fashion-MNIST",
        steps=2_200,
        channels=(48, 48, 96),
        arms=(_COSINE, _EDM, _V_X, _V_FID_HALF),
    )


def cifar10_long() -> Study:
    """The networks of the experiment cifar10, under the usual law and a constant-rate one.

    The law was chosen before `cifar10-training` was finished, after an earlier short run on the
    same images.
    """
    return Study(
        name="cifar10-long",
        title="Long trainings of pixel models on cifar10-q75",
        steps=18_000,
        seeds=2,
        arms=(_COSINE, _V_FID_HALF),
    )


def cifar10_latent_training() -> Study:
    """The networks of the experiment cifar10-latent, under the same two laws."""
    return Study(
        name="cifar10-latent-training",
        title="Trainings of latent models on cifar10-q75",
        steps=12_000,
        seeds=2,
        channels=(64, 96, 96),
        latent=True,
        arms=(_COSINE, _V_FID_HALF),
    )
