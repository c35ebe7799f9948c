"""What was measured: records, statistics, the audit and claim runners, the report."""
