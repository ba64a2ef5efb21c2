"""Measures how the vectors of a served model change with its inputs; black box, through the API.

    pictures       what is measured on        service        a model behind the API
    perturbations  noise, blur, grey pixels   drift          faults of preprocessing
    texts          cut, filled, misspelt      adversarial    the fewest pixels that change the label
    figures        vectors -> rows            page, plots    rows -> Markdown and PNG

Beside `benchmarks`, not in it: it draws its scenes with `export.demo.scenes`, which benchmarks may
not know, and measures no speed. May import `benchmarks`, `gateway.images`, `gateway.models`,
`openclip_triton` and the scenes and captions of `export.demo`; never PyTorch. Nothing imports it.
"""
