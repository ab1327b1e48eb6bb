"""The simulated engine: DeepSeek-V3 under DP+EP on H800, by a calibrated cost model.

- `h800`: the constants and their provenance.
- `cost`: `PassCost`, how long a forward pass of one EP group takes (pure).
- `group_model`: `GroupModel`, what an EP group's engine does with its requests (pure, time passed in);
  the virtual-time simulator drives it directly.
- `engine`: `SimulatedEngine`, the same model behind the Engine port in wall-clock time.
"""
