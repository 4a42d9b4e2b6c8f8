"""Post-training quantization: from a float network and calibration data to an integer network."""

from milpq.quantization.calibration import Calibrated, calibrate, load_calibration
from milpq.quantization.fixed_point import quantize_fixed_point
from milpq.quantization.layers import LinearLayer, linear_layers
from milpq.quantization.quantize import calibrate_network, quantize, quantize_calibrated
from milpq.quantization.scheme import Bits, RangeMethod, Scheme

__all__ = [
    "Bits",
    "Calibrated",
    "LinearLayer",
    "RangeMethod",
    "Scheme",
    "calibrate",
    "calibrate_network",
    "linear_layers",
    "load_calibration",
    "quantize",
    "quantize_calibrated",
    "quantize_fixed_point",
]
