from trainers.pretrain.vae import *
from trainers.pretrain.fit import Fit
import sys
if __name__ == "__main__":
    import time
    s = Fit(Path("/work/main/work/vae"), steps=int(sys.argv[1]), learning_rate=1.5e-3)
    v = train_vae(s)
    save_vae(v, Path("/work/main/work/vae/model"))
