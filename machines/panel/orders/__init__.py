"""Operations and orders: what an operation is, how its order is placed, and what a job is called in words."""
