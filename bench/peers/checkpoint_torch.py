"""torch.save of what a checkpoint holds: the 2-layer LSTM of the bench, and Adam's state after a step.

python checkpoint_torch.py FOLDER HIDDEN SAVES: one JSON line. Each save goes to a new file; the last
one is left as FOLDER/peer.pt, for `dd` to copy. A user without a background thread waits for
`save_s`, who wants the file to be there after a power cut for `save_s + fsync_s`.
"""
import os, sys, time, json, torch
torch.set_num_threads(1)
folder, hidden, saves = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
class M(torch.nn.Module):
    def __init__(s):
        super().__init__(); s.lstm=torch.nn.LSTM(1,hidden,2,batch_first=True); s.fc=torch.nn.Linear(hidden,1)
    def forward(s,x):
        o,_=s.lstm(x); return s.fc(o[:,-1])
torch.manual_seed(0); m=M(); opt=torch.optim.Adam(m.parameters(),1e-3)
m(torch.randn(2,8,1)).square().mean().backward(); opt.step()
path=os.path.join(folder,"peer.pt"); save_s=[]; fsync_s=[]
for _ in range(saves):
    if os.path.exists(path): os.remove(path)
    start=time.perf_counter(); torch.save({"model":m.state_dict(),"optimizer":opt.state_dict()},path); saved=time.perf_counter()
    with open(path,"rb+") as file: os.fsync(file.fileno())
    save_s.append(saved-start); fsync_s.append(time.perf_counter()-saved)
print(json.dumps(dict(peer="torch.save",hidden=hidden,bytes=os.path.getsize(path),save_s=save_s,fsync_s=fsync_s)),flush=True)
