"""By this file ``homing.kiwipy`` knows that this is not kiwipy itself."""
