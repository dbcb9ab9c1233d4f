"""Slow, obvious versions of what the library computes fast: loops and the textbook's formula."""

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
    """mean_s KL(p_s, mean), which is H[mean] - mean_s H[p_s] by another route."""
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


def variance(samples):
    mean = predictive_mean(samples)
    return [
        [
            sum((float(sample[n][k]) - mean[n][k]) ** 2 for sample in samples) / len(samples)
            for k in range(len(mean[n]))
        ]
        for n in range(len(mean))
    ]


def mean_std(samples):
    return [sum(math.sqrt(v) for v in row) / len(row) for row in variance(samples)]


def aleatoric_variance(samples):
    return [
        [
            sum(float(sample[n][k]) * (1 - float(sample[n][k])) for sample in samples)
            / len(samples)
            for k in range(len(samples[0][n]))
        ]
        for n in range(len(samples[0]))
    ]


def label_variance(samples):
    """Of a one-hot label under the mean of the samples, summed over classes."""
    return [sum(p * (1 - p) for p in row) for row in predictive_mean(samples)]


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
