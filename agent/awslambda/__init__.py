"""Run jobs as an AWS Lambda function."""
