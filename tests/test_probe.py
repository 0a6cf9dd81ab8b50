import time
from pathlib import Path
from . import tiny
def test_x(tmp_path: Path, own_cache) -> None:
    t=time.time()
    m = tiny.write_flux(tmp_path/"model"); print("write", time.time()-t)
    tiny.write_pictures(tmp_path/"photos", [(64,64)]*4+[(96,48)]*2)
    from velatura.training.run import train
    for steps in (4,24):
        r = tiny.recipe(tmp_path, m, name=f"a{steps}", training={"steps":steps,"batch_size":2}, previews={"prompts":["a red cube"],"steps":2})
        log = tiny.Log()
        t=time.time()
        out = train(r, tmp_path, events=log.events); print(out, time.time()-t)
    print(log.texts)
    import os
    os.system(f"find {tmp_path} -type f | head -60; du -sh {m}; cat {m}/model_index.json")
    assert 0
