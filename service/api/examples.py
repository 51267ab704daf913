"""The example answer of the OpenAPI document: one tile, its lists cut to the first."""

from typing import Any

from service.api.schemas import RESEARCH_USE_ONLY

SEGMENTATION_EXAMPLE: dict[str, Any] = {
    "id": "0f8c2f1e7b5d4c7f9a3a6a1f3f1f9a10",
    "status": "preliminary",
    "research_use_only": RESEARCH_USE_ONLY,
    "created_utc": "2026-11-22T12:00:00.000Z",
    "count": 123,
    "density_per_mm2": 7507.32,
    "foreground_fraction": 0.1466,
    "mean_area_px": 312.4,
    "median_area_px": 298.0,
    "mean_area_um2": 19.53,
    "median_area_um2": 18.63,
    "model": {
        "name": "mobilenetv2_unet",
        "version": "1.0.0",
        "digest": "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
    },
    "provider": "CPUExecutionProvider",
    "image": {
        "width": 512,
        "height": 512,
        "format": "png",
        "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "mpp": 0.25,
        "mpp_source": "parameter",
        "notes": [],
    },
    "parameters": {
        "threshold": 0.5,
        "seed_threshold": 0.5,
        "min_area_px": 80.0,
        "mask": "binary",
        "mask_encoding": "png",
        "include": ["nuclei"],
    },
    "quality": {
        "flags": [
            {
                "name": "too_little_tissue",
                "value": 0.97,
                "threshold": 0.05,
                "unit": "share of the image",
                "direction": "below",
                "assessed": True,
                "fired": False,
                "message": "There is enough tissue.",
            }
        ],
        "review_recommended": False,
        "reasons": [],
    },
    "timings_ms": {
        "decoding": 5.7,
        "tiling": 0.2,
        "inference": 146.1,
        "separation": 6.9,
        "measurement": 3.1,
        "quality": 4.2,
        "queue": 0.1,
        "encoding": 0.4,
        "total": 163.2,
    },
    "nuclei": [
        {
            "id": 1,
            "centroid_px": [101.4, 77.9],
            "bounding_box_px": [92, 70, 19, 17],
            "area_px": 250,
            "area_um2": 15.625,
            "contour_px": [[92, 75], [95, 84], [107, 80], [101, 70]],
            "mean_probability": 0.91,
        }
    ],
}
