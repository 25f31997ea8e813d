"""AdvBN (Shu et al., NeurIPS 2021) in a Hugging Face Trainer: python examples/hugging_face.py.

The trainer is given the branches in the model's place; the model itself is `branches.clean`, to be saved as ever. Its
images are what its image processor makes. One process: what several would have to wrap is a forward of the branches.
"""

import torch
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

import statshift

CORRUPTIONS = ("gaussian_noise", "glass_blur", "brightness", "pixelate")
ATTACK = statshift.FeatureAttack(steps=3)


class AdvBNTrainer(Trainer):
    """Step down AdvBN's losses of `pixel_values` (B,3,H,W) and `labels` (B,); the model is `Branches`."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss of a batch."""
        losses = statshift.advbn_losses(model, inputs["pixel_values"], inputs["labels"], ATTACK)
        return losses["clean"] + losses["adv"]


def arguments(folder, **options):
    """Return what the trainer is to do; it is to keep all inputs, and to save nothing by itself."""
    return TrainingArguments(folder, remove_unused_columns=False, save_strategy="no", report_to=[], **options)


def network():
    """Return a small residual network, with random weights."""
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 1], "num_labels": 10}
    return ResNetForImageClassification(ResNetConfig(layer_type="basic", **sizes))


def accuracies(model):
    """Return the accuracy on clean digits, and its mean over one corruption of each kind at severity 3."""
    pixels = statshift.load_model(model, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))  # takes them from -1 to 1
    rows = statshift.measure(pixels, "digits", shifts=["clean", *CORRUPTIONS], severities=[3], device="cpu").rows
    clean, *corrupted = (row["correct"] / row["images"] for row in rows)
    return clean, sum(corrupted) / len(corrupted)


def main(folder="advbn-resnet", epochs=(3, 2)):
    """Train a small network on handwritten digits, fine-tune it, print what that changed, and save it in a folder."""
    torch.manual_seed(0)
    images, labels = statshift.load_data("digits", split="train").tensors()
    data = [{"pixel_values": 2 * image - 1, "labels": label} for image, label in zip(images, labels, strict=True)]
    options = {"per_device_train_batch_size": 64, "dataloader_drop_last": True, "use_cpu": True, "disable_tqdm": True}
    model = network()
    plain = arguments(folder, num_train_epochs=epochs[0], learning_rate=3e-3, **options)
    Trainer(model, plain, train_dataset=data).train()
    before = accuracies(model)

    branches = statshift.Branches(model, "resnet.embedder.embedder", torch.stack([data[0]["pixel_values"]] * 2))
    fine = arguments(folder, num_train_epochs=epochs[1], learning_rate=1e-3, **options)
    AdvBNTrainer(branches, fine, train_dataset=data).train()
    branches.eval().clean.save_pretrained(folder)
    print("                     clean  corrupted")
    for name, found in (("plainly trained", before), ("fine-tuned by AdvBN", accuracies(branches.clean))):
        print(f"{name:<20} {found[0]:.3f}  {found[1]:.3f}")


if __name__ == "__main__":
    main()
