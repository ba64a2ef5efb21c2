"""Measures how the vectors of a served model change with its inputs, as a black box behind the API.

    pictures       the measured pictures      service        a model behind the API
    perturbations  noise, blur, grey pixels   drift          faults of preprocessing
    texts          cut, padded, misspelt      adversarial    the fewest pixels that change the label
    figures        vectors -> rows            page, plots    rows -> Markdown and PNG

Not part of `benchmarks`: it draws its scenes with `export.demo.scenes`, which benchmarks may not
import, and measures no speed. May import `benchmarks`, `gateway.images`, `gateway.models`,
`gateway.errors`, `openclip_triton` and the scenes and captions of `export.demo`; never PyTorch.
Nothing imports it.
"""
