"""What users call: every public function and class with its arguments, in order, and their defaults."""

import inspect
import re

import statshift

SIGNATURES = {
    # Measure
    "measure": (
        "(model, data, *, shifts=None, severities=(1, 2, 3, 4, 5), groups=None, rectify=(), adaptation=None, "
        "out=None, batch_size=None, device='auto', dtype='float32', compiled=False, seed=None, options=None, "
        "corrupt_at='benchmark', data_options=None, baseline=None, alexnet='auto', ligs=(), examples=6, "
        "progress=None, task=None, full_argmax=False, stream=None, clean_data=None, fast=False, "
        "profile=False, dry_run=False)"
    ),
    "Measurement": "(record, rows, summary, path=None, profile=None, forecast=None)",
    "Progress": "(condition, protocol, number, passes, finished_before, images, images_per_pass, at_once=1)",
    "Comparison": (
        "(images, protocols, conditions, mean_accuracy, mce, measured_mean=None, measured_over='', "
        "headline='accuracy', counts_images=True)"
    ),
    "compare": "(first, second, *, protocols=('source', 'source'), table=None, task=None)",
    "Ligs": "(values, seed=0)",
    "LigsOptions": "(perturbation='gaussian', scale=0.01)",
    "ligs": ("(model, images, labels, options=None, *, loss=None, seed=0, indices=None, batch_size=128, task=None)"),
    "read_run": "(path)",
    "run_recipe": (
        "(name, model, data, out, *, validation=None, training=None, at=None, shifts=None, severities=None, "
        "rectify=(), files=None, sets=None, against=None, batch_size=None, device='auto', dtype='float32', "
        "compiled=False, seed=0, model_args=None, data_options=None, training_progress=None, measuring_progress=None)"
    ),
    # Report
    "write_report": "(runs, out='report.html', *, title=None, task=None)",
    # Adapt
    "Diagnosis": (
        "(layers, shift, noise, images, persisting, effective, untrained=False, norms='', classes=0, predicted=0.0)"
    ),
    "diagnose": "(model, images)",
    "rectified": "(model, images, protocol='auto', **options)",
    "rectify": "(model, images, protocol='auto', **options)",
    "RectifiedStream": "(model, window=32, every=32, protocol='auto', **options)",
    "foolbox_model": "(model)",
    "frozen": "(model)",
    "sweep": "(model, batches, layers=None, *, tolerance=0.01, statistics='both', unbiased=False)",
    "AdaptationOptions": (
        "(samples=32, draws=1, include_adaptation=False, statistics='both', where='all', unbiased=False, "
        "reset_every=None, clean=None)"
    ),
    "Protocol": "()",
    "Adapter": "()",
    "Rule": "()",
    "Stream": "()",
    "ChannelStatistics": "(mean, var, count)",
    # Harden
    "Hardened": "(model, branches, record, path)",
    "harden": (
        "(model, data, options, *, out=None, validation=None, validation_split=None, shifts=('clean',), "
        "severities=(1, 3, 5), ligs=(), keep_best=False, landscape=False, device='auto', compiled=False, trace=True, "
        "data_options=None, progress=None, task=None)"
    ),
    "HardenOptions": "(method='advbn', at=None, training=<factory>, branch='clean')",
    "TrainingOptions": (
        "(epochs=20, batch_size=256, learning_rate=0.001, schedule='step', decay_epochs=None, decay_factor=0.1, "
        "optimizer='sgd', momentum=0.9, nesterov=False, weight_decay=0.0001, accumulate=1, augment='standard', "
        "window=None, scale=None, aspect=1.0, colour=0.0, "
        "dtype='float32', channels_last=True, gamma=1.0, seed=0, checkpoint_every=300.0, "
        "recompute=False, attack_dtype=None)"
    ),
    "Method": "()",
    "AdvBN": "(attack=<factory>)",
    "advbn_losses": "(branches, images, labels, attack=None, *, task=None)",
    "Adversarial": (
        "(attack=PixelAttack(epsilon=0.5, step_size=0.1, steps=7, norm='l2', loss='cross-entropy', "
        "target='none', random_start=True, clip=True))"
    ),
    "AdvProp": (
        "(attack=PixelAttack(epsilon=0.01568627450980392, step_size=0.00392156862745098, steps=5, norm='linf', "
        "loss='cross-entropy', target='none', random_start=True, clip=True))"
    ),
    "PixelAT": (
        "(attack=PixelAttack(epsilon=0.00392156862745098, step_size=0.00392156862745098, steps=3, norm='linf', "
        "loss='cross-entropy', target='none', random_start=True, clip=True))"
    ),
    "Corrupted": "(corruption='', severity=3)",
    "LigsRegularised": "(ligs=<factory>, weight=1.0)",
    "train_from_scratch": "(spec, data, options=None, *, model_args=None, **more)",
    "Landscape": "(step_sizes, losses, gradient_changes, loss, gradient_norm)",
    "Branches": "(model, at, image, *, dual=True, trace=True, compiled=False, recompute=False)",
    "Cut": "(name, aliases, shape, rectified, norms_before, norms_after)",
    "find_cuts": "(model, image)",
    "Split": "(model, cut, graph, _prefix, _suffix, _build, copies=False, sized=False, latest=<factory>)",
    "split": "(model, at, image, *, trace=True)",
    # Corrupt and attack
    "corrupt": (
        "(images, name, severity, *, seed=0, indices=None, table=None, quantise=True, reencode=False, frost=None, "
        "scale_constants=True)"
    ),
    "CorruptionOptions": (
        "(seed=0, table=None, quantise=True, reencode=False, frost=None, scale_constants=True, style=None)"
    ),
    "Shift": "()",
    "AutoAttack": "(epsilon, norm='linf')",
    "FeatureAttack": (
        "(steps=6, step_size=0.2, epsilon=None, form='multiplicative', part='both', clamp=True, perturbation='global')"
    ),
    "PixelAttack": (
        "(epsilon=0.00392156862745098, step_size=None, steps=20, norm='linf', loss='cross-entropy', "
        "target='none', random_start=True, clip=True)"
    ),
    "attack_images": "(model, images, labels, attack, *, seed=0, indices=None, loss=None, check=True, task=None)",
    # Make
    "write_adversarial": (
        "(model, data, attack, *, out, batch_size=128, seed=0, device='auto', data_options=None, progress=None)"
    ),
    "DecoderOptions": (
        "(width=32, depth=3, crop=None, epochs=100, batch_size=16, learning_rate=0.001, dtype='float32', seed=0, "
        "checkpoint_every=300.0)"
    ),
    "train_decoder": (
        "(model, at, data, *, out, loss='features', options=DecoderOptions(width=32, depth=3, crop=None, epochs=100, "
        "batch_size=16, learning_rate=0.001, dtype='float32', seed=0, checkpoint_every=300.0), validation=None, "
        "device='auto', data_options=None, progress=None)"
    ),
    "Codec": "(at, encode, decoder, rectified, split, stages, record)",
    "codec_of": "(model, decoder_file, image, *, at=None)",
    "adain_codec": "(vgg_file, decoder_file, device='cpu')",
    "write_advbn": (
        "(model, decoder, data, *, out, attack=FeatureAttack(steps=6, step_size=0.2, epsilon=1.1, "
        "form='multiplicative', part='both', clamp=True, perturbation='global'), loss='rest', control=True, "
        "batch_size=32, device='auto', data_options=None, progress=None)"
    ),
    "Visualisation": "(columns, labels, indices, class_names, record)",
    "visualise": (
        "(model, decoder, data, *, steps=(0, 2, 4, 6, 8), step_size=0.2, epsilon=None, loss='rest', out=None, shown=8, "
        "batch_size=32, device='auto', data_options=None)"
    ),
    "ExtractionOptions": "(steps=None, step_size=0.1, epsilon=0.5, batch_size=128, seed=0)",
    "extract": (
        "(model, data, kind, options=ExtractionOptions(steps=None, step_size=0.1, epsilon=0.5, batch_size=128, "
        "seed=0), *, out, device='auto', data_options=None, progress=None)"
    ),
    "write_rectified": "(model, data, out, *, protocol='auto', options=None, seed=0, overwrite=False)",
    # Models, data, tasks, errors and warnings
    "PixelModel": "(network, preprocessing=None, *, spec='', num_classes=None, arguments=None, source_hash=None)",
    "exchange_norm": "(model, norm, *, groups=32)",
    "load_model": (
        "(spec, *, weights=None, mean=None, std=None, model_args=None, pretrained=True, resize_input=True, "
        "size_multiple=None, branch=None)"
    ),
    "ImageData": (
        "(spec, source, indices, labels, class_names, shape, preprocessing, converted=0, skipped=<factory>, "
        "workers=0, cache_bytes=4294967296, class_order=None, ignore_index=255, skip_bad=False, sizes=<factory>, "
        "file=None)"
    ),
    "load_data": (
        "(spec, *, shift=None, split=None, resize=None, crop=None, interpolation='bilinear', limit=None, seed=0, "
        "skip_bad=False, class_map=None, workers=0, cache_bytes=4294967296, ignore_index=None, label_map=None, "
        "cache=None, cache_size=None)"
    ),
    "Task": "()",
    "Classification": "()",
    "ClassSubset": "(classes=None)",
    "Segmentation": "(ignore_index=255)",
}
"""By name, grouped by verb: whoever changes one breaks a user's code."""


def is_called(thing):
    return callable(thing) and not (isinstance(thing, type) and issubclass(thing, Exception))


CALLED = {name: one for name in statshift.__all__ if is_called(one := getattr(statshift, name))}


def signature_of(thing):
    """Return the arguments of a function or constructor and their defaults, without types; a function by its name."""
    arguments = inspect.signature(thing).parameters.values()
    plain = str(inspect.Signature([one.replace(annotation=inspect.Parameter.empty) for one in arguments]))
    return re.sub(r"<function (\w+) at \w+>", r"\1", plain)


def takers(word):
    return {name for name, one in CALLED.items() if word in inspect.signature(one).parameters}


def test_public_signatures_stay():
    assert {name: signature_of(one) for name, one in CALLED.items()} == SIGNATURES


def test_a_word_means_one_thing_and_is_the_commands():
    assert takers("at") == {
        "Branches",
        "Codec",
        "HardenOptions",
        "codec_of",
        "run_recipe",
        "split",
        "train_decoder",
    }  # a layer
    assert takers("protocols") == {"Comparison", "compare"}  # one of each run, as `--protocols`
    assert takers("rectify") == {"measure", "run_recipe"}
    assert takers("corrupt_at") == {"measure"}
    assert takers("landscape") == {"harden"}
    assert takers("form") == {"FeatureAttack"}
    assert takers("walk") == set()
    assert takers("kind") == {"extract"}  # of data, as the command's KIND
