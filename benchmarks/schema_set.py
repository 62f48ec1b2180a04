"""JSON Schemas written by hand in the manner of what public services describe: what they send and take, shortened."""

from __future__ import annotations

from benchmarks.schema_parts import (
    COLOUR,
    DAY,
    ID,
    MONEY,
    PLACE,
    POINT,
    TIME,
    YES,
    Schema,
    form,
    like,
    maybe,
    obj,
    one,
    real,
    some,
    table,
    text,
    whole,
)

SCHEMAS: dict[str, Schema] = {
    # Code and projects
    "issue": obj(
        "assignee",
        number=whole(1),
        title=text(40, 3),
        state=one("open", "closed"),
        labels=some(text(12, 1)),
        assignee=maybe(text(20)),
        created_at=TIME,
    ),
    "pull_request": obj(
        number=whole(1),
        title=text(40),
        draft=YES,
        head=obj(ref=text(20, 1), sha=like("^[0-9a-f]{8}$")),
        base=obj(ref=text(20, 1), sha=like("^[0-9a-f]{8}$")),
        mergeable=maybe(YES),
    ),
    "commit": obj(
        sha=like("^[0-9a-f]{12}$"),
        message=text(50, 5),
        author=obj(name=text(20, 1), date=TIME),
        files=some(obj(path=text(24, 1), additions=whole(0, 500), deletions=whole(0, 500)), 1, 2),
    ),
    "repository": obj(
        "license",
        name=like("^[a-z][a-z0-9-]{2,15}$"),
        private=YES,
        stars=whole(),
        topics=some(text(12, 1)),
        license=maybe(one("mit", "apache-2.0", "gpl-3.0")),
        default_branch=one("main", "master"),
    ),
    "release": obj(
        tag=like(r"^v[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{1,2}$"),
        name=text(30),
        prerelease=YES,
        notes=text(60),
        assets=some(obj(name=text(20, 1), size=whole(0, 10**6)), 0, 2),
    ),
    "workflow_run": obj(
        id=whole(1),
        status=one("queued", "in_progress", "completed"),
        conclusion=maybe(one("success", "failure", "cancelled")),
        attempt=whole(1, 5),
    ),
    "check_annotation": obj(
        path=text(24, 1),
        start_line=whole(1),
        end_line=whole(1),
        level=one("notice", "warning", "failure"),
        message=text(60, 3),
    ),
    "package": obj(
        "homepage",
        name=like("^[a-z][a-z0-9_]{2,14}$"),
        version=like(r"^[0-9]\.[0-9]{1,2}\.[0-9]{1,2}$"),
        requires=some(like("^[a-z]{2,10}>=[0-9]$")),
        homepage=text(30),
    ),
    "vulnerability": obj(
        id=like("^CVE-20[0-9]{2}-[0-9]{4}$"),
        severity=one("low", "medium", "high", "critical"),
        score=real(0, 10),
        affected=some(text(16, 1), 1, 2),
        fixed_in=maybe(text(10)),
    ),
    "code_review": obj(
        verdict=one("approve", "comment", "request_changes"),
        summary=text(60, 5),
        comments=some(obj(line=whole(1, 400), text=text(40, 3)), 0, 3),
    ),
    # Money
    "charge": obj(
        id=like("^ch_[A-Za-z0-9]{8}$"),
        amount=MONEY,
        paid=YES,
        refunded=YES,
        description=maybe(text(40)),
        status=one("succeeded", "pending", "failed"),
    ),
    "refund": obj(
        id=like("^re_[A-Za-z0-9]{8}$"), amount=MONEY, reason=maybe(one("duplicate", "fraudulent", "requested"))
    ),
    "invoice": obj(
        "notes",
        number=like("^INV-[0-9]{5}$"),
        issued=DAY,
        due=DAY,
        notes=text(40),
        lines=some(obj(item=text(24, 2), quantity=whole(1, 99), unit_price=real()), 1, 3),
        total=real(0, 10_000),
    ),
    "subscription": obj(
        plan=one("free", "basic", "pro"),
        interval=one("month", "year"),
        seats=whole(1, 500),
        trial_end=maybe(DAY),
        cancel_at_period_end=YES,
    ),
    "payment_method": {
        "oneOf": [
            obj(type={"const": "card"}, last4=like("^[0-9]{4}$"), exp_month=whole(1, 12), exp_year=whole(2026, 2040)),
            obj(type={"const": "iban"}, iban=like("^[A-Z]{2}[0-9]{2}[0-9]{12}$")),
        ]
    },
    "exchange_rates": obj(base=like("^[A-Z]{3}$"), date=DAY, rates=table(real(0, 500))),
    "bank_transfer": obj(
        reference=like("^[A-Z0-9]{8}$"), sender=text(24, 2), receiver=text(24, 2), amount=MONEY, booked=TIME
    ),
    "expense_report": obj(
        employee=text(20, 2),
        period=obj(begins=DAY, ends=DAY),
        items=some(obj(category=one("travel", "meals", "hotel"), amount=real(0, 900)), 1, 3),
    ),
    "stock_quote": obj(
        symbol=like("^[A-Z]{1,5}$"), price=real(), change=real(-50, 50), volume=whole(0, 10**7), at=TIME
    ),
    "tax_form": obj(
        year=whole(2000, 2030), filing=one("single", "joint"), income=whole(0, 500_000), deductions=some(whole(0, 9000))
    ),
    # Shops and goods
    "product": obj(
        "weight_kg",
        sku=like("^[A-Z]{3}-[0-9]{4}$"),
        name=text(30, 2),
        price=MONEY,
        in_stock=YES,
        weight_kg=real(0, 80),
        colours=some(COLOUR),
    ),
    "cart": obj(
        customer=ID, items=some(obj(sku=like("^[A-Z]{3}-[0-9]{4}$"), count=whole(1, 20)), 1, 3), coupon=maybe(text(10))
    ),
    "order": obj(id=ID, status=one("new", "packed", "shipped", "delivered"), ship_to=PLACE, gift=YES),
    "shipment": obj(
        carrier=one("post", "courier", "freight"),
        tracking=like("^[A-Z0-9]{10}$"),
        events=some(obj(at=TIME, place=text(20, 2)), 1, 2),
    ),
    "review": obj(stars=whole(1, 5), title=text(30, 2), body=text(80, 5), verified=YES),
    "inventory": obj(warehouse=text(12, 1), counts=table(whole(0, 500))),
    "recipe": obj(
        title=text(30, 3),
        serves=whole(1, 12),
        minutes=whole(5, 240),
        vegan=YES,
        ingredients=some(obj(name=text(16, 2), grams=whole(1, 2000)), 2, 4),
        steps=some(text(50, 5), 1, 3),
    ),
    "nutrition": obj(
        kcal=whole(0, 2000),
        protein_g=real(0, 100),
        fat_g=real(0, 100),
        salt_g=real(0, 20),
        allergens=some(one("nuts", "milk", "egg")),
    ),
    "restaurant": obj(
        name=text(24, 2),
        cuisine=one("italian", "indian", "thai", "greek"),
        rating=real(0, 5),
        location=POINT,
        open_now=YES,
    ),
    "book": obj(
        "subtitle",
        isbn=like("^97[89]-[0-9]{10}$"),
        title=text(40, 2),
        subtitle=text(40),
        authors=some(text(20, 2), 1, 2),
        pages=whole(1, 2000),
    ),
    # Travel and places
    "flight": obj(
        number=like("^[A-Z]{2}[0-9]{2,4}$"),
        origin=like("^[A-Z]{3}$"),
        destination=like("^[A-Z]{3}$"),
        departs=TIME,
        gate=maybe(like("^[A-F][0-9]{1,2}$")),
    ),
    "hotel_booking": obj(
        guest=text(24, 2), check_in=DAY, nights=whole(1, 30), room=one("single", "double", "suite"), breakfast=YES
    ),
    "weather": obj(
        place=text(20, 2),
        temperature_c=real(-40, 50),
        humidity=whole(0, 100),
        sky=one("clear", "cloudy", "rain", "snow"),
        wind=obj(speed=real(0, 60), degrees=whole(0, 359)),
    ),
    "forecast": obj(days=some(obj(date=DAY, low=whole(-30, 20), high=whole(0, 45), chance_of_rain=real(0, 1)), 2, 3)),
    "route": obj(
        metres=whole(0, 10**6),
        seconds=whole(0, 10**5),
        steps=some(obj(turn=one("left", "right", "straight"), onto=text(20, 1)), 1, 3),
    ),
    "feature": obj(
        type={"const": "Feature"},
        geometry=obj(
            type={"const": "Point"},
            coordinates={
                "type": "array",
                "prefixItems": [real(-180, 180), real(-90, 90)],
                "items": False,
                "minItems": 2,
            },
        ),
        properties=table(text(12)),
    ),
    "train": obj(
        line=like("^(IC|RE|S)[0-9]{1,3}$"),
        stops=some(obj(station=text(16, 2), arrives=form("time")), 2, 3),
        delayed=YES,
    ),
    "parking": obj(zone=like("^[A-D][0-9]{2}$"), free=whole(0, 900), rates=some(real(0, 9), 1, 3), closes=form("time")),
    "address": PLACE,
    "timezone": obj(
        name=one("Europe/Zurich", "America/New_York", "Asia/Tokyo"), offset=like(r"^[+-][01][0-9]:[03]0$"), dst=YES
    ),
    # People and talk
    "user": obj(
        "bio",
        id=ID,
        login=like("^[a-z][a-z0-9_]{2,11}$"),
        email=form("email") | {"maxLength": 40},
        bio=text(50),
        admin=YES,
        created=TIME,
    ),
    "contact": obj(
        first=text(14, 1), last=text(14, 1), phones=some(like(r"^\+[1-9][0-9]{7,11}$"), 1, 2), birthday=maybe(DAY)
    ),
    "message": obj(
        channel=like("^#[a-z]{2,12}$"), text=text(60, 1), mentions=some(like("^@[a-z]{2,10}$")), thread=maybe(ID)
    ),
    "email": obj(
        to=some(form("email") | {"maxLength": 40}, 1, 2),
        subject=text(40, 2),
        body=text(80, 5),
        importance=one("low", "normal", "high"),
    ),
    "calendar_event": obj(
        "place",
        title=text(30, 2),
        begins=TIME,
        ends=TIME,
        place=text(24),
        attendees=some(text(16, 2), 1, 3),
        repeats=one("never", "daily", "weekly"),
    ),
    "poll": obj(
        question=text(50, 5), options=some(obj(text=text(16, 1), votes=whole(0, 500)), 2, 4), closes=maybe(DAY)
    ),
    "survey_answer": obj(question=whole(1, 40), answer={"anyOf": [whole(1, 5), text(40, 1), YES]}),
    "job_posting": obj(
        title=text(30, 3),
        remote=YES,
        salary=obj(low=whole(20_000, 60_000), high=whole(60_000, 200_000)),
        skills=some(text(12, 2), 1, 4),
    ),
    "resume": obj(
        name=text(24, 3),
        years=whole(0, 45),
        jobs=some(obj(company=text(16, 2), role=text(20, 2), until=maybe(whole(1980, 2026))), 1, 2),
    ),
    "medical_visit": obj(
        patient=ID,
        date=DAY,
        systolic=whole(80, 200),
        diastolic=whole(40, 120),
        symptoms=some(text(20, 3), 1, 3),
        follow_up=maybe(DAY),
    ),
    # Machines
    "server": obj(
        hostname=form("hostname") | {"maxLength": 30},
        ip=form("ipv4"),
        cpus=whole(1, 256),
        tags=table(text(10)),
        state=one("running", "stopped"),
    ),
    "container": obj(
        image=like("^[a-z]{3,10}:[0-9]{1,2}$"),
        ports=some(obj(host=whole(1, 65_535), container=whole(1, 65_535))),
        env=table(text(12)),
        restart=one("no", "always"),
    ),
    "alert": obj(
        rule=text(24, 3), level=one("info", "warning", "page"), value=real(), threshold=real(), fired=TIME, silenced=YES
    ),
    "sensor_reading": obj(
        device=like("^[0-9a-f]{2}(:[0-9a-f]{2}){3}$"), at=TIME, values=some(real(-50, 150), 1, 4), battery=whole(0, 100)
    ),
    "log_line": obj(
        "trace",
        at=TIME,
        level=one("debug", "info", "warning", "error"),
        message=text(60, 3),
        trace=like("^[0-9a-f]{16}$"),
    ),
    "feature_flag": obj(
        key=like("^[a-z]+(_[a-z]+){1,2}$") | {"maxLength": 24},
        enabled=YES,
        rollout=whole(0, 100),
        segments=some(text(12, 2)),
    ),
    "dns_record": obj(
        name=text(20, 1), type=one("A", "AAAA", "CNAME", "TXT"), ttl=whole(60, 86_400), value=text(30, 1)
    ),
    "backup": obj(
        id=ID,
        size_mb=whole(0, 10**6),
        encrypted=YES,
        tables=some(like("^[a-z_]{3,14}$"), 1, 3),
        took_seconds=real(0, 5000),
    ),
    "query": obj(
        "limit",
        select=some(like("^[a-z_]{2,12}$"), 1, 3),
        table=like("^[a-z_]{2,12}$"),
        where=some(obj(column=text(12, 1), is_=one("=", "<", ">"), value={"anyOf": [whole(), text(12)]}), 0, 2),
        limit=whole(1, 100),
    ),
    "test_report": obj(
        passed=whole(0, 900), failed=whole(0, 90), slowest=some(obj(name=text(24, 3), seconds=real(0, 60)), 1, 2)
    ),
    # What models are asked for
    "sentiment": obj(
        label=one("positive", "neutral", "negative"), confidence=real(0, 1), reasons=some(text(40, 3), 1, 2)
    ),
    "entities": obj(entities=some(obj(text=text(16, 1), kind=one("person", "place", "company", "date")), 1, 4)),
    "summary": obj(title=text(30, 3), points=some(text(50, 5), 2, 3), language=like("^[a-z]{2}$")),
    "quiz": obj(questions=some(obj(ask=text(50, 5), choices=some(text(14, 1), 3, 4), right=whole(0, 3)), 1, 2)),
    "maths_step": obj(steps=some(obj(explanation=text(40, 3), output=text(20, 1)), 1, 3), final_answer=text(20, 1)),
    "translation": obj(source=one("en", "de", "fr"), target=one("en", "de", "fr"), text=text(60, 2), formal=YES),
    "tree": {
        **obj(name=text(12, 1), children=some({"$ref": "#/$defs/leaf"}, 0, 3)),
        "$defs": {"leaf": obj("children", name=text(12, 1), children=some(obj(name=text(8, 1)), 0, 2))},
    },
    "command": {
        "anyOf": [
            obj(do={"const": "move"}, to=POINT),
            obj(do={"const": "say"}, text=text(30, 1)),
            obj(do={"const": "wait"}, seconds=whole(1, 60)),
        ]
    },
    "form_field": obj(
        "options",
        name=like("^[a-z_]{2,14}$"),
        kind=one("text", "number", "choice"),
        required=YES,
        options=some(text(12, 1)),
    ),
    "game_move": obj(
        piece=one("K", "Q", "R", "B", "N", "P"), start=like("^[a-h][1-8]$"), end=like("^[a-h][1-8]$"), check=YES
    ),
}
"""By name; more than 60."""
