"""Learned rewards: trained from votes, calibrated, evaluated, attacked, served, and used as rewards on pixels."""
