"""Batch inference: a model over a folder of media, an archive, a list or rows of questions (`mmreason infer`).

items.py     what to run on, in a fixed order, each with an id that stays
reader.py    decodes ahead of the engine, bounded in items and bytes
generate.py  prompts in, finished answers out, in any order: our decode loop or vLLM
rows.py      one row per item, appended as it is finished; what a later start goes on from
gallery.py   a page of all rows beside small pictures of their media (gallery_rows.py: where these are)
verb.py      all of it together
"""
