"""The numbers that are reported, and the tests and gauges behind them."""
