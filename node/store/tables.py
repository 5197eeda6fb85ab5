"""The tables. Times are seconds since the epoch (UTC); JSON columns hold what `node/schemas` describes."""

import sqlalchemy as sa

from node.store.sql import Big, Text

VERSION = 7
"""Counts up with every change of the tables."""

metadata = sa.MetaData()

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", Text, primary_key=True),
    sa.Column("value", Text, nullable=False),
)

node = sa.Table(  # those that share this database
    "node",
    metadata,
    sa.Column("name", Text, primary_key=True),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("seen", sa.Float, nullable=False),  # by the clock of the database
    sa.Column("ahead", sa.Float, nullable=False),
    sa.Column("state", Text, nullable=False),  # alive | silent | stopped
)

seat = sa.Table(  # who does what only one of them may do
    "seat",
    metadata,
    sa.Column("name", Text, primary_key=True),
    sa.Column("owner", Text, nullable=False),  # one process that took it, once
    sa.Column("node", Text, nullable=False),
    sa.Column("backend", sa.Integer, nullable=False),  # the server's number of the session that holds it
    sa.Column("seen", sa.Float, nullable=False),  # when it last got on, by the clock of the database
)

process = sa.Table(
    "process",
    metadata,
    sa.Column("name", Text, primary_key=True),  # see node/installation.py
    sa.Column("node", Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("role", Text, nullable=False),
    sa.Column("started", sa.Float, nullable=False),
)

journal = sa.Table(
    "journal",
    metadata,
    sa.Column("file", Text, primary_key=True),
    sa.Column("offset", Big, nullable=False),
)

association = sa.Table(
    "association",
    metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("receiver", Text, nullable=False),  # name of the process that accepted it
    sa.Column("calling", Text, nullable=False),
    sa.Column("called", Text, nullable=False),
    sa.Column("peer", Text, nullable=False),
    sa.Column("opened", sa.Float, nullable=False),
    sa.Column("ended", sa.Float),
    sa.Column("how", Text),  # released | incomplete | aborted
    sa.Index("ix_association_lately", "calling", "ended"),
)

carried = sa.Table(  # which association carried images of which study
    "carried",
    metadata,
    sa.Column("association", Text, primary_key=True),
    sa.Column("study_uid", Text, primary_key=True, index=True),
    sa.Column("images", sa.Integer, nullable=False),  # repeated ones included
    sa.Column("first", sa.Float, nullable=False),
    sa.Column("last", sa.Float, nullable=False),
)

study = sa.Table(
    "study",
    metadata,
    sa.Column("uid", Text, primary_key=True),
    sa.Column("hash", Text, nullable=False, index=True),
    sa.Column("accession", Text, nullable=False),
    sa.Column("patient_id", Text, nullable=False),
    sa.Column("issuer", Text, nullable=False),
    sa.Column("date", Text, nullable=False),
    sa.Column("state", Text, nullable=False, index=True),  # open | early | closed
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("dropped", sa.Integer, nullable=False),  # early results of this revision that a late image made void
    sa.Column("opened", sa.Float, nullable=False),  # first new image of this revision
    sa.Column("active", sa.Float, nullable=False),  # last image, repeated ones included
    sa.Column("upto", Big, nullable=False),  # newest image row
    sa.Column("corrected", sa.Integer, nullable=False, default=0),  # how often the source corrected whose study it is
    sa.Column("identity_since", sa.Integer, nullable=False, default=1),  # first revision under the present identity
    sa.Column("patient_since", sa.Integer, nullable=False, default=1),  # first revision under the present patient
    # from headers, of whatever length: only a hash of them fits into any page of an index
    *(sa.Index(f"ix_study_{name}", name, postgresql_using="hash") for name in ("accession", "patient_id", "date")),
)

instance = sa.Table(
    "instance",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=False),  # the next number, see `NEXT_INSTANCE`
    sa.Column("sop_uid", Text, nullable=False, unique=True),
    sa.Column("study_uid", Text, nullable=False),
    sa.Column("series_uid", Text, nullable=False),
    sa.Column("sop_class", Text, nullable=False),
    sa.Column("modality", Text, nullable=False),
    sa.Column("syntax", Text, nullable=False),
    sa.Column("digest", Text, nullable=False),
    sa.Column("bytes", Big, nullable=False),
    sa.Column("entry", Text, nullable=False),
    sa.Column("association", Text, nullable=False),
    sa.Column("again", Text),  # the association that brought it last, if it came again
    sa.Column("received", sa.Float, nullable=False),
    sa.Column("role", Text, nullable=False),  # image | other | authored | unreadable
    sa.Column("identity", Text, nullable=False, default=""),  # whose it says it is, see node/identity.py
    sa.Column("removed", sa.Float),  # when the file was taken away, or was found missing or damaged
    sa.Index("ix_instance_received", "received", "bytes", "removed"),
    sa.Index("ix_instance_study", "study_uid", "role", "series_uid"),
)

NEXT_INSTANCE = sa.select(sa.func.coalesce(sa.func.max(instance.c.id), 0) + 1).scalar_subquery()
"""The number of the newest image row plus one: nobody else writes meanwhile, and a corrected image gets a new one too."""

version = sa.Table(  # every object that came under a SOP Instance UID; one of them is the instance that is used
    "version",
    metadata,
    sa.Column("sop_uid", Text, primary_key=True),
    sa.Column("digest", Text, primary_key=True),
    sa.Column("number", Big, nullable=False, index=True),  # in the order of their first coming
    sa.Column("study_uid", Text, nullable=False, index=True),
    sa.Column("entry", Text, nullable=False, index=True),
    sa.Column("bytes", Big, nullable=False),
    sa.Column("association", Text, nullable=False),
    sa.Column("received", sa.Float, nullable=False),  # last time
    sa.Column("state", Text, nullable=False),  # used | corrected | conflict | same | returned | unreadable
    sa.Column("identity", Text, nullable=False),
    sa.Column("removed", sa.Float),  # as above
    sa.Column("lost", sa.Float),  # when it was found missing or damaged; null if a removal is on record
)

NEXT_VERSION = sa.select(sa.func.coalesce(sa.func.max(version.c.number), 0) + 1).scalar_subquery()

job = sa.Table(
    "job",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=True),
    sa.Column("study_uid", Text, nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("upto", Big, nullable=False),  # inputs are the images up to this row
    sa.Column("subject", Text, nullable=False),  # "study", or the UID of one series or instance
    sa.Column("depends_on", Big, sa.ForeignKey("job.id")),
    sa.Column("pipeline", Text),  # null: no pipeline is meant for this study
    sa.Column("series", sa.JSON, nullable=False),  # candidate Series Instance UIDs
    sa.Column("send_to", sa.JSON, nullable=False),  # destination name -> outcomes that are told to it
    sa.Column("priority", sa.Integer, nullable=False, default=2),  # 0 stat, 1 high, 2 routine
    sa.Column("state", Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("losses", sa.Integer, nullable=False, default=0),  # attempts lost with the whole process tree
    sa.Column("not_before", sa.Float, nullable=False, default=0.0),
    sa.Column("owner", Text),
    sa.Column("lease", sa.Float),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("ended", sa.Float),
    sa.Column("stage", Text),
    sa.Column("progress", sa.Float),
    sa.Column("outcome", Text),
    sa.Column("reason", sa.JSON(none_as_null=True)),
    sa.Column("input_digest", Text),
    sa.Column("document", sa.JSON(none_as_null=True)),
    sa.Column("carried_from", Big, sa.ForeignKey("job.id")),  # the job whose result still stands
    sa.Index("ix_job_due", "state", "not_before"),
)

artifact = sa.Table(
    "artifact",
    metadata,
    sa.Column("job_id", Big, sa.ForeignKey("job.id"), primary_key=True),
    sa.Column("sop_uid", Text, primary_key=True, index=True),
    sa.Column("name", Text, nullable=False),
    sa.Column("path", Text, nullable=False),  # relative to the data folder
    sa.Column("kind", Text, nullable=False),
    sa.Column("variant", Text, nullable=False, default=""),  # which encoding of it, see sr_writer/profiles.py
    sa.Column("modality", Text, nullable=False),
    sa.Column("sop_class", Text, nullable=False),
    sa.Column("series_uid", Text, nullable=False),
    sa.Column("bytes", Big, nullable=False),
    sa.Column("digest", Text, nullable=False),
    sa.Column("removed", sa.Float),  # when retention took the file away
    sa.Column("replaced", sa.Float),  # when its job ended again with other objects; it may stand somewhere all the same
)

_ASKED = sa.text("proof_next IS NOT NULL")

delivery = sa.Table(
    "delivery",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=True),
    sa.Column("job_id", Big, sa.ForeignKey("job.id"), nullable=False),
    sa.Column("study_uid", Text, nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("destination", Text, nullable=False),
    sa.Column("what", Text, nullable=False, default="objects"),  # see rows.Delivery
    sa.Column("priority", sa.Integer, nullable=False, default=2),
    sa.Column("state", Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column(
        "owner", Text
    ),  # of nodes that share the database: who sends it, or sent it last, see node/store/seats.py
    sa.Column("next_attempt", sa.Float),
    sa.Column("last_error", sa.JSON(none_as_null=True)),
    sa.Column("identity", Text),  # see rows.Identity
    sa.Column("proof", Text),  # see rows.Proof
    sa.Column("proof_next", sa.Float),
    sa.Column("proof_attempts", sa.Integer, nullable=False, default=0),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("queued", sa.Float, nullable=False, default=0.0),  # when it was last queued by the node or by a person
    sa.Column("ended", sa.Float),
    sa.UniqueConstraint("job_id", "destination", "what"),
    sa.Index("ix_delivery_due", "state", "next_attempt", "destination"),
    sa.Index("ix_delivery_proof", "proof_next", "destination", sqlite_where=_ASKED, postgresql_where=_ASKED),
)

sent = sa.Table(  # what a destination said about the single objects of a delivery, for good
    "sent",
    metadata,
    sa.Column("delivery_id", Big, sa.ForeignKey("delivery.id"), primary_key=True),
    sa.Column("sop_uid", Text, primary_key=True),
    sa.Column("accepted", sa.Boolean, nullable=False),
    sa.Column("status", sa.Integer),  # null: refused without a status
    sa.Column("reason", sa.JSON(none_as_null=True)),
    sa.Column("at", sa.Float, nullable=False),
)

brought = sa.Table(  # what a destination has ever accepted: it may stand there, whatever was sent or said since
    "brought",
    metadata,
    sa.Column("delivery_id", Big, sa.ForeignKey("delivery.id"), primary_key=True),
    sa.Column("sop_uid", Text, primary_key=True, index=True),
    sa.Column("at", sa.Float, nullable=False),  # first
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=True),
    sa.Column("study_uid", Text, nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", Text, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
)

notice = sa.Table(  # what peers told us: MPPS, instance availability, storage commitment
    "notice",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=True),
    sa.Column("kind", Text, nullable=False),  # mpps-create | mpps-set | ian | commit-request | commit-result
    sa.Column("uid", Text, nullable=False, index=True),  # affected SOP Instance UID, or Transaction UID
    sa.Column("entry", Text, nullable=False, unique=True),  # path below the spool
    sa.Column("association", Text, nullable=False),
    sa.Column("calling", Text, nullable=False),
    sa.Column("called", Text, nullable=False),
    sa.Column("peer", Text, nullable=False),
    sa.Column("received", sa.Float, nullable=False),
)

procedure = sa.Table(  # modality performed procedure steps, one row per study that a step is about
    "procedure",
    metadata,
    sa.Column("uid", Text, primary_key=True),
    sa.Column("study_uid", Text, primary_key=True, index=True),
    sa.Column("status", Text, nullable=False),  # IN PROGRESS | COMPLETED | DISCONTINUED
    sa.Column("updated", sa.Float, nullable=False),
)

announced = sa.Table(  # instances that a performed procedure step or an availability notification names
    "announced",
    metadata,
    sa.Column("by", Text, primary_key=True),  # UID of the step or notification
    sa.Column("sop_uid", Text, primary_key=True),
    sa.Column("study_uid", Text, nullable=False, index=True),
    sa.Column("series_uid", Text, nullable=False),
)

relay = sa.Table(  # notices on their way to the RIS, in the order of their arrival
    "relay",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=True),
    sa.Column("notice_id", Big, sa.ForeignKey("notice.id"), nullable=False),
    sa.Column("to", Text, nullable=False),
    sa.Column("state", Text, nullable=False),  # waiting | delivered | dead
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("refused", sa.Integer, nullable=False, default=0),  # attempts that were answered with a failure
    sa.Column("next_attempt", sa.Float),
    sa.Column("last_error", sa.JSON(none_as_null=True)),
    sa.UniqueConstraint("notice_id", "to"),
    sa.Index("ix_relay_due", "to", "state", "id"),
)

source_count = sa.Table(  # what a sender answered when asked how many images each series of a study has
    "source_count",
    metadata,
    sa.Column("study_uid", Text, primary_key=True),
    sa.Column("source", Text, primary_key=True),
    sa.Column("at", sa.Float, primary_key=True),
    sa.Column("again", sa.Float, nullable=False),  # when it last answered the same
    sa.Column("series", sa.JSON, nullable=False),  # Series Instance UID -> images, results excluded
)

pace = sa.Table(  # the longest pauses of a sender within one study
    "pace",
    metadata,
    sa.Column("sender", Text, primary_key=True),
    sa.Column("study_uid", Text, primary_key=True),
    sa.Column("within_s", sa.Float, nullable=False),  # between images of one association
    sa.Column("between_s", sa.Float, nullable=False),  # between associations
    sa.Column("images", sa.Integer, nullable=False),
    sa.Column("first", sa.Float, nullable=False),
    sa.Column("last", sa.Float, nullable=False),
    sa.Column("refuted", Text),  # the kind of strong evidence after which its images still came
    sa.Index("ix_pace_recent", "sender", "last"),
)

commitment = sa.Table(  # storage commitment asked of a destination: for a delivery of ours, or on behalf of a sender
    "commitment",
    metadata,
    sa.Column("transaction_uid", Text, primary_key=True),
    sa.Column("destination", Text, nullable=False, index=True),
    sa.Column("delivery_id", Big, sa.ForeignKey("delivery.id")),
    sa.Column("notice_id", Big, sa.ForeignKey("notice.id")),  # the sender's request
    sa.Column("state", Text, nullable=False),  # waiting | asked | committed | failed | told | dead
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("next_attempt", sa.Float),
    sa.Column("asked", sa.Float),
    sa.Column("answered", sa.Float),
    sa.Column("failed", sa.JSON(none_as_null=True)),  # SOP Instance UID -> failure reason
    sa.Column("last_error", sa.JSON(none_as_null=True)),
)

breaker = sa.Table(  # destinations that do not answer are left alone for a while
    "breaker",
    metadata,
    sa.Column("destination", Text, primary_key=True),
    sa.Column("state", Text, nullable=False),  # closed | open | half-open
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("next_try", sa.Float),
    sa.Column("last_error", sa.JSON(none_as_null=True)),
)

alarm = sa.Table(  # what a person must look at; one row per (code, subject)
    "alarm",
    metadata,
    sa.Column("code", Text, primary_key=True),
    sa.Column("subject", Text, primary_key=True),  # study UID, destination name, or empty for the node
    sa.Column("study_uid", Text, index=True),
    sa.Column("raised", sa.Float, nullable=False),
    sa.Column("cleared", sa.Float),
    sa.Column("reason", sa.JSON, nullable=False),
)
