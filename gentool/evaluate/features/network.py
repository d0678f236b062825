"""A small residual network: pictures to features, and features to classes."""

from torch import Tensor, nn

from gentool.evaluate.features import ModelConfig


class Block(nn.Module):
    """x + conv(conv(x))."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(groups, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(groups, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.layers(h)


class Classifier(nn.Module):
    """x [B, C, H, W] in [-1, 1] -> logits [B, classes]."""

    def __init__(self, config: ModelConfig, channels: int) -> None:
        super().__init__()
        width = config.channels
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        for level in range(config.levels):
            if level:
                layers.append(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1))
                width *= 2
            layers.append(Block(width, config.norm_groups))
        self.body = nn.Sequential(*layers, nn.GroupNorm(config.norm_groups, width), nn.SiLU())
        self.head = nn.Linear(width, config.classes)

    def features(self, x: Tensor) -> Tensor:
        """[B, D]: the last layer before the classes, averaged over the picture."""
        return self.body(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))
