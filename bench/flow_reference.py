"""The flow that others compute, timed: run by a Python that has opencv-contrib-python, scikit-image and numpy and
nothing of ours (opencv-contrib-python overwrites opencv-python).

python bench/flow_reference.py opencv|skimage PAIRS.npz OUT.npy [times]
PAIRS: before, after (N H W uint8); OUT: N 2 H W float32; on stdout one line of JSON: version, seconds for a pair (each
time), megabytes at the peak and before
"""
import json
import sys
import time

import numpy as np
from measure import megabytes


def opencv():
    "TV-L1 with 5 scales, zoom 0.5, 5 warps, 30 iterations, one outer, no median, no early stop."
    import cv2
    cv2.setNumThreads(1)
    method = cv2.optflow.DualTVL1OpticalFlow_create(tau=.25, lambda_=.15, theta=.3, nscales=5, warps=5, epsilon=0,
                                                    innnerIterations=30, outerIterations=1, scaleStep=.5, gamma=0,
                                                    medianFiltering=1, useInitialFlow=False)
    return cv2.__version__, lambda before, after: method.calc(before, after, None).transpose(2, 0, 1)


def scikit_image():
    """The same numbers as far as it takes them: halved down to 16 pixels (always), 5 warps, 30 iterations, no median;
    float32. Its grey values are 0 to 1 and its flow is (y, x)."""
    import skimage
    from skimage.registration import optical_flow_tvl1

    def method(before, after):
        before, after = before.astype(np.float32)/255, after.astype(np.float32)/255
        return optical_flow_tvl1(before, after,
                                 attachment=15, tightness=.3, num_warp=5, num_iter=30, tol=0, prefilter=False)[::-1]
    return skimage.__version__, method


def timed(method, pairs, out, times, version):
    "Every pair by itself, `times` times, after an unmeasured one."
    pairs, spent = np.load(pairs), []
    before, after = pairs['before'], pairs['after']
    now = megabytes('VmRSS')
    if times > 1: method(before[0], after[0])
    for _ in range(times):
        start = time.perf_counter()
        found = [method(*pair) for pair in zip(before, after, strict=True)]
        spent.append((time.perf_counter() - start)/len(before))
    np.save(out, np.stack(found).astype(np.float32))
    print(json.dumps(dict(version=version, seconds=spent, peak=megabytes('VmHWM'), before=now)))


def main(name, pairs, out, times=1):
    version, method = dict(opencv=opencv, skimage=scikit_image)[name]()
    timed(method, pairs, out, int(times), version)


if __name__ == '__main__': main(*sys.argv[1:])
