"""Where raw data come from: what anyone may download, and what a person must log in for."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Download:
    """One file: where it is and, where known, what it must hash to."""

    url: str
    file_name: str
    checksum: str | None
    """`md5:...` or `sha256:...` of the file as downloaded."""


@dataclass(frozen=True, kw_only=True)
class Public:
    """Raw data that anyone may download."""

    licence: str
    page: str
    downloads: tuple[Download, ...]


@dataclass(frozen=True, kw_only=True)
class BehindLogin:
    """Raw data that a person must download: what, and from where."""

    licence: str
    page: str
    files: tuple[str, ...]


SOURCES: Mapping[str, Public | BehindLogin] = {
    "kuairand": Public(
        licence="CC BY-SA 4.0",
        page="https://kuairand.com",
        downloads=(
            Download(
                url="https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz",
                file_name="KuaiRand-Pure.tar.gz",
                checksum="md5:0820331067a3784d9691136f772b35a7",
            ),
        ),
    ),
    "kuairand_1k": Public(
        licence="CC BY-SA 4.0",
        page="https://kuairand.com",
        downloads=(
            Download(
                url="https://zenodo.org/records/10439422/files/KuaiRand-1K.tar.gz",
                file_name="KuaiRand-1K.tar.gz",
                checksum="md5:6b0b9c8222d67fcd4c676218edca3f1f",
            ),
        ),
    ),
    "kuairand_27k": Public(
        licence="CC BY-SA 4.0",
        page="https://kuairand.com",
        downloads=(
            Download(
                url="https://zenodo.org/records/10439422/files/KuaiRand-27K.tar.gz",
                file_name="KuaiRand-27K.tar.gz",
                checksum="md5:3e3c799a24e2d23a4d2c757fbf9adf59",
            ),
        ),
    ),
    "kuairec": Public(
        licence="CC BY-SA 4.0",
        page="https://kuairec.com",
        downloads=(
            Download(
                url="https://zenodo.org/records/18164998/files/KuaiRec.zip",
                file_name="KuaiRec.zip",
                checksum=None,
            ),
        ),
    ),
    "census_income": Public(
        licence="CC BY 4.0",
        page="https://archive.ics.uci.edu/dataset/117/census+income+kdd",
        downloads=tuple(
            Download(
                url=f"https://archive.ics.uci.edu/ml/machine-learning-databases/census-income-mld/{name}",
                file_name=name,
                checksum=None,
            )
            for name in ("census-income.data.gz", "census-income.test.gz")
        ),
    ),
    "adult": Public(
        licence="CC BY 4.0",
        page="https://archive.ics.uci.edu/dataset/2/adult",
        downloads=tuple(
            Download(
                url=f"https://archive.ics.uci.edu/ml/machine-learning-databases/adult/{name}",
                file_name=name,
                checksum=f"sha256:{digest}",
            )
            for name, digest in (
                ("adult.data", "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d"),
                ("adult.test", "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05"),
            )
        ),
    ),
    "hillstrom": Public(
        licence="public challenge data, no formal licence",
        page="https://blog.minethatdata.com/2008/03/minethatdata-e-mail-analytics-and-data.html",
        downloads=(
            Download(
                url=(
                    "http://www.minethatdata.com/"
                    "Kevin_Hillstrom_MineThatData_E-MailAnalytics_DataMiningChallenge_2008.03.20.csv"
                ),
                file_name=(
                    "Kevin_Hillstrom_MineThatData_E-MailAnalytics_DataMiningChallenge_2008.03.20.csv"
                ),
                checksum="sha256:0e5893329d8b93cefecc571777672028290ab69865718020c78c7284f291aece",
            ),
        ),
    ),
    "aliexpress": BehindLogin(
        licence="the provider's terms, shown with the download",
        page="https://tianchi.aliyun.com/dataset/74690",
        files=("aliexpress_NL_datasets.zip", "or another country's"),
    ),
    "tenrec": BehindLogin(
        licence="Tencent's licence agreement",
        page="https://static.qblv.qq.com/qblv/h5/algo-frontend/tenrec_dataset.html",
        files=("ctr_data_1M.csv", "or another scenario's"),
    ),
    "tiktok": BehindLogin(
        licence="academic use only",
        page="https://www.biendata.xyz/competition/icmechallenge2019/",
        files=("final_track2_train.txt.tgz",),
    ),
    "criteo_attribution": BehindLogin(
        licence="CC BY-NC-SA 4.0",
        page="https://ailab.criteo.com/criteo-attribution-modeling-bidding-dataset/",
        files=("criteo_attribution_dataset.tsv.gz",),
    ),
    "aliccp": BehindLogin(
        licence="the provider's terms, shown with the download",
        page="https://tianchi.aliyun.com/dataset/408",
        files=("sample_train.tar.gz", "sample_test.tar.gz"),
    ),
}
OWN = {"synthetic": "none: drawn by cvrbench", "table": "yours"}


def licence_of(kind: str) -> str:
    """Give the terms of a source's data, by the dataset's kind."""
    return OWN.get(kind) or SOURCES[kind].licence
