"""Caches in S3 buckets and their look-alikes. Knows S3's addresses and codes; knows nothing of Nix.

    location    what an ``s3://`` URL says
    access      boto3's sessions, credentials and clients
    heads       bounds for the heads of answers
    refusals    what S3's codes and botocore's errors mean
    transport   the requests

botocore neither retries (whoever calls us does) nor checks checksums (look-alikes send wrong ones,
and everything is hashed further up).
"""

from __future__ import annotations

from nixfetch.transport.s3.location import PARAMETERS, S3Location
from nixfetch.transport.s3.transport import S3Transport, connect

__all__ = ["PARAMETERS", "S3Location", "S3Transport", "connect"]
