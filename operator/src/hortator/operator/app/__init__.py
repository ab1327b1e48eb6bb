"""The operator process. Only here is kopf: it watches, and its handlers tell the inventory and the queue."""
