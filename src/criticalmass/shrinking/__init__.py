"""What `criticalmass.shrink` is made of: parts of the data, candidates, promises, the folder."""
