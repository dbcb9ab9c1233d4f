"""Slow reference implementations that follow textbook formulas with plain loops."""

import math


def entropy(p):
    total = 0.0
    for p_k in p:
        if p_k > 0:
            total -= p_k * math.log(p_k)
    return total


def predictive_mean(samples):
    num_samples = len(samples)
    num_examples, num_classes = len(samples[0]), len(samples[0][0])
    mean = [[0.0] * num_classes for _ in range(num_examples)]
    for s in range(num_samples):
        for n in range(num_examples):
            for k in range(num_classes):
                mean[n][k] += float(samples[s][n][k]) / num_samples
    return mean


def predictive_entropy(samples):
    return [entropy(p) for p in predictive_mean(samples)]


def expected_entropy(samples):
    return [
        sum(entropy(sample[n]) for sample in samples) / len(samples) for n in range(len(samples[0]))
    ]


def mutual_information(samples):
    """Return mean_s KL(p_s, mean), which equals H[mean] - mean_s H[p_s]."""
    mean = predictive_mean(samples)
    result = []
    for n in range(len(mean)):
        total = 0.0
        for sample in samples:
            for k in range(len(mean[n])):
                p = float(sample[n][k])
                if p > 0:
                    total += p * (math.log(p) - math.log(mean[n][k]))
        result.append(total / len(samples))
    return result


def variation_ratio(samples):
    return [1 - max(p) for p in predictive_mean(samples)]


def vote_ratio(samples):
    result = []
    for n in range(len(samples[0])):
        counts = [0.0] * len(samples[0][0])
        for sample in samples:
            best = [k for k in range(len(counts)) if sample[n][k] == max(sample[n])]
            for k in best:
                counts[k] += 1 / len(best)
        result.append(1 - max(counts) / len(samples))
    return result


def epistemic_variance(samples):
    mean = predictive_mean(samples)
    return [
        [
            sum((float(sample[n][k]) - mean[n][k]) ** 2 for sample in samples) / len(samples)
            for k in range(len(mean[n]))
        ]
        for n in range(len(mean))
    ]


def mean_std(samples):
    return [sum(math.sqrt(v) for v in row) / len(row) for row in epistemic_variance(samples)]


def aleatoric_variance(samples):
    return [
        [
            sum(float(sample[n][k]) * (1 - float(sample[n][k])) for sample in samples)
            / len(samples)
            for k in range(len(samples[0][n]))
        ]
        for n in range(len(samples[0]))
    ]


def variance(samples):
    """Return the variance of a one-hot label under the mean of the samples."""
    return [[p * (1 - p) for p in row] for row in predictive_mean(samples)]


def label_variance(samples):
    return [sum(row) for row in variance(samples)]


def accuracy(y_true, probs):
    hits = 0
    for y, p in zip(y_true, probs):
        hits += y == max(range(len(p)), key=lambda k: p[k])
    return hits / len(y_true)


def nll(y_true, probs):
    return sum(-math.log(p[y]) for y, p in zip(y_true, probs)) / len(y_true)


def brier(y_true, probs):
    total = 0.0
    for y, p in zip(y_true, probs):
        for k in range(len(p)):
            total += (p[k] - (k == y)) ** 2
    return total / len(y_true)


def expected_calibration_error(y_true, probs, num_bins):
    total = 0.0
    for b in range(num_bins):
        inside = [
            (y, p) for y, p in zip(y_true, probs) if b / num_bins < max(p) <= (b + 1) / num_bins
        ]
        if inside:
            accuracy_b = accuracy([y for y, _ in inside], [p for _, p in inside])
            confidence_b = sum(max(p) for _, p in inside) / len(inside)
            total += len(inside) / len(y_true) * abs(accuracy_b - confidence_b)
    return total


def margin(samples):
    ordered = [sorted(p) for p in predictive_mean(samples)]
    return [p[-2] - p[-1] for p in ordered]


def expected_information_gain(samples, targets):
    """Return EPIG, the mean over targets of KL(p(y, y*), p(y) p(y*))."""
    mean, target_mean = predictive_mean(samples), predictive_mean(targets)
    result = []
    for n in range(len(mean)):
        total = 0.0
        for t in range(len(target_mean)):
            for k in range(len(mean[n])):
                for j in range(len(target_mean[t])):
                    pairs = zip(samples, targets)
                    joint = sum(p[n][k] * q[t][j] for p, q in pairs) / len(samples)
                    if joint > 0:
                        total += joint * math.log(joint / (mean[n][k] * target_mean[t][j]))
        result.append(total / len(target_mean))
    return result


def joint_mutual_information(samples, batch):
    """Return I(y_batch; theta) by enumerating all labels of the batch."""
    num_classes = len(samples[0][0])
    labellings = [[]]
    for _ in batch:
        labellings = [[*labels, k] for labels in labellings for k in range(num_classes)]
    total = 0.0
    for labels in labellings:
        likelihoods = []
        for sample in samples:
            p = 1.0
            for n, k in zip(batch, labels):
                p *= sample[n][k]
            likelihoods.append(p)
        mean = sum(likelihoods) / len(samples)
        for p in likelihoods:
            if p > 0:
                total += p * math.log(p / mean) / len(samples)
    return total


def batch_bald(samples, size):
    """Pick greedily; each pick maximizes the joint mutual information of the batch."""
    batch = []
    while len(batch) < size:
        left = [n for n in range(len(samples[0])) if n not in batch]
        batch.append(max(left, key=lambda n: joint_mutual_information(samples, [*batch, n])))
    return batch


def _distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)))


def k_center(features, labelled, size):
    picked = []
    while len(picked) < size:
        centres = list(labelled) + [features[n] for n in picked]
        left = [n for n in range(len(features)) if n not in picked]
        picked.append(max(left, key=lambda n: min(_distance(features[n], c) for c in centres)))
    return picked


def diverse(scores, features, size, coefficient):
    dimensions = range(len(features[0]))
    mean = [sum(row[f] for row in features) / len(features) for f in dimensions]
    centred = [[row[f] - mean[f] for f in dimensions] for row in features]
    zero = [0.0] * len(mean)

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b)) / (_distance(a, zero) * _distance(b, zero))

    picked = []

    def value(n):
        closest = max([0.0] + [cosine(centred[n], centred[i]) for i in picked])
        return scores[n] / max(scores) - coefficient * closest

    while len(picked) < size:
        picked.append(max((n for n in range(len(scores)) if n not in picked), key=value))
    return picked
