"""Text -> documents -> passages -> examples -> batches.

sources/        what is read: documents, judged queries, questions with answers, in all their forms
salient/        the names, dates and numbers of a text
stores/         what is prepared, written in shards and read by row
preparation/    from the one to the other, once for each corpus; beam.py: its long parts on many machines
the files here  text as sentences, passages and ids; what training makes of a passage; the batches
"""
