"""From run records to tables and figures; reads, never trains, never imports torch."""

import re

MARGIN = 0.001
"""Difference of AUC that matters where the user says nothing; the field publishes such gains."""
MOST_SEEDS = 20
"""Seeds at which `seeds=auto` ends where the user says nothing."""
NAMES = {
    "single_task": "Single-Task", "shared_embedding": "Shared-Embedding", "omoe": "OMoE",
    "shared_bottom": "Shared-Bottom", "mmoe": "MMoE", "cgc": "CGC", "ple": "PLE", "aitm": "AITM",
    "cross_stitch": "Cross-Stitch", "adatt": "AdaTT", "resflow": "ResFlow", "dbmtl": "DBMTL",
    "stem": "STEM", "snr_trans": "SNR-Trans", "mssm": "MSSM", "pepnet": "PEPNet",
    "dselect_k": "DSelect-k", "ncs": "NCS", "ncs_paper": "NCS (paper)",
    "synthetic": "Synthetic", "aliccp": "Ali-CCP", "aliccp_aitm": "Ali-CCP (AITM)",
    "aliccp_rechub": "Ali-CCP (RecHub)", "aliccp_merlin": "Ali-CCP (Merlin)",
    "kuairand": "KuaiRand-Pure", "kuairand_like": "KuaiRand-Pure (like)",
    "kuairand_three": "KuaiRand-Pure (three tasks)", "kuairand_history": "KuaiRand-Pure (history)",
    "kuairand_1k": "KuaiRand-1K", "kuairand_27k": "KuaiRand-27K", "kuairec": "KuaiRec",
    "kuairand_watch": "KuaiRand-Pure (watch)", "kuairec_watch": "KuaiRec (watch)",
    "lt4rec": "LT4Rec sample",
    "aliexpress": "AliExpress", "tenrec": "Tenrec", "tiktok": "TikTok", "adult": "Adult",
    "criteo_attribution": "Criteo Attribution", "census_income": "Census-Income",
    "census_education": "Census-Income (education)", "hillstrom": "Hillstrom",
}  # fmt: skip
"""What strategies and datasets are called in papers, where that is not what is typed."""
IDENT = re.compile(
    rf"(?<![\w=.-])(?:{'|'.join(sorted(NAMES, key=len, reverse=True))})(?![\w=-]|\.\w)"
)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a cell begins with that spreadsheets compute; the last four are the wide forms."""


def as_written(text: str) -> str:
    """Return words with strategies and datasets called as papers call them.

    >>> as_written("mmoe n_experts=8"), as_written("kuairand: ncs against model=mmoe")
    ('MMoE n_experts=8', 'KuaiRand-Pure: NCS against model=mmoe')
    """
    return IDENT.sub(lambda found: NAMES[found.group()], text)


def escape_control(text: str) -> str:
    r"""Spell out characters that would command a terminal: colours, the cursor, its title.

    >>> escape_control("red: \x1b[31m")
    'red: \\x1b[31m'
    """
    return "".join(c if c.isprintable() or c == "\n" else _spelt(c) for c in text)


def escape_formula(text: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula.

    For names in CSV files; a number is written as one, whatever its sign. (OWASP, "CSV injection".)

    >>> escape_formula("=HYPERLINK(1)"), escape_formula("mmoe")
    ("'=HYPERLINK(1)", 'mmoe')
    """
    return f"'{text}" if text.startswith(FORMULA) else text


def _spelt(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()
