"""Where word problems take place and who is in them: the vocabulary of trainables/word_problems.py.

Texts are templates; trainables/word_problem_steps.py says how they are written.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scene:
    """Where a problem takes place. `words` has alternatives with " | " between them."""

    name: str
    start: str
    gives: str
    words: dict[str, str]
    price: tuple[int, int] = (100, 500)


WOMEN = (
    "Abigail Aisha Alice Amara Anna Anya Beatriz Bella Camila Carla Charlotte Chloe Clara Daisy Diana Elena Ella Emma "
    "Esther Fatima Fiona Gloria Grace Hana Hannah Harriet Ingrid Irene Isabel Jasmine Joyce Julia Karen Kiara Laura "
    "Layla Leila Lily Lucy Maria Mei Mia Nadia Naomi Natalie Nina Nora Olivia Paula Priya Rachel Rosa Ruth Samira "
    "Sandra Sofia Susan Tara Tina Valerie Vera Wendy Yasmin Zoe"
).split()
MEN = (
    "Aaron Ahmed Alan Andre Anton Arjun Ben Brian Carlos Charlie Daniel David Diego Dmitri Edward Eli Eric Ethan Felix "
    "Finn Frank George Hamza Hassan Henry Hugo Ian Isaac Ivan Jack Jamal James Jerome Joel John Jorge Juan Kenji Kevin "
    "Kyle Leo Liam Lucas Luis Malik Marcus Martin Matteo Mohamed Nathan Noah Oliver Omar Oscar Pablo Paul Peter Rafael "
    "Ravi Robert Ryan Sam Simon Thomas Tim Victor Wei William"
).split()

# Words of every scene that has none of its own.
WORDS = {
    "giver": "{his} grandmother | {his} uncle | a friend | a neighbor | {his} aunt",
    "relation": "friend | neighbor | cousin | coworker",
    "sister": "{his} sister | {his} cousin | {his} friend | {his} neighbor",
    "brother": "{his} brother | {his} cousin | {his} friend | {his} neighbor",
    "day1": "on Monday | on Tuesday | on Friday | in the morning | on the first day | in April | in the first week",
    "span": "day | week",
    "hold": "have",
    "dream": "bicycle | tablet | guitar | skateboard | camera | telescope | laptop | tent | sewing machine | keyboard",
    "treat": "book | movie ticket | plant | T-shirt | poster | board game | sketchbook | pair of gloves",
    "spoiled": "broken | damaged",
    "spending": "clothes | food | rent | books | a birthday present | a train ticket",
    "session": "day",
    "on": "on",
    "uses": "use | give away",
    "batch": "box | bag | pack",
    "box": "box | bag | basket",
    "handling": "wash | check | label | wrap",
    "expense": "on supplies",
}
NEXT_DAY = {
    "on Monday": "on Tuesday",
    "on Tuesday": "on Wednesday",
    "on Friday": "on Saturday",
    "in the morning": "in the afternoon",
    "on the first day": "on the second day",
    "in April": "in May",
    "in August": "in September",
    "in the first week": "in the second week",
    "in the first game": "in the second game",
    "in the first half": "in the second half",
}


def _scene(name: str, start: str, gives: str, price: tuple[int, int] = (100, 500), **words: str) -> Scene:
    return Scene(name, start, gives, WORDS | words, price)


SCENES = (
    _scene(
        "orchard", "stuff", "goods", (50, 300),
        item="apple | pear | peach | plum | orange | lemon | mango", get="pick", span="hour | day",
        opening="{she} [have] <a small orchard|an orchard behind {his} house> | {she} [work] <in|at> {his} family's orchard",
        batch="basket | crate", box="bag | box | crate", spoiled="rotten | bruised | too small to sell",
        loses="[give] {c} of <them|the {items}> to <a neighbor|{his} cousin> | [use] {c} of <them|the {items}> to make juice",
        uses="eat", expense="on new baskets | to rent a stall at the market | on fertilizer",
        aside="The <oldest tree in|fence around> the orchard [be-] {z year} old",
    ),
    _scene(
        "bakery", "stuff", "goods", (100, 400),
        item="cupcake | muffin | cookie | bagel | croissant | brownie | doughnut | cinnamon roll", get="bake", span="hour | day",
        opening="{she} [own] a <small|busy> bakery | {she} [love] to bake | {she} [be] baking for <a school fair|the market>",
        batch="tray | batch", box="box | bag", spoiled="burnt | broken",
        loses="[give] {c} of <them|the {items}> to <{his} neighbors|a friend> | [drop] {c} of them on the floor",
        uses="eat", handling="decorate | frost | wrap", expense="on flour and butter | on ingredients | on sugar and eggs",
        aside="{She} [have] been baking for {z year} | The <oven|kitchen> [be-] {z year} old",
    ),
    _scene(
        "farm", "stuff", "goods", (200, 800),
        item="pumpkin | watermelon | cabbage | cauliflower | melon", get="harvest", span="hour | day",
        opening="{she} [live] on a farm | {she} [help] out on {his} uncle's farm | {she} [grow] {items} <on {his} farm|in a large field>",
        batch="row | cart", box="crate | box", spoiled="<rotten|damaged by frost> | eaten by rabbits", handling="wash | wrap",
        loses="[give] {c} of <them|the {items}> to <a food bank|the neighbors> | [feed] {c} of <them|the {items}> to the pigs",
        uses="eat", expense="on seeds | on fuel for the tractor | to repair the fence",
        aside="The farm [be-] {z mile} from <the nearest town|the market>",
    ),
    _scene(
        "henhouse", "stuff", "goods", (25, 75),
        item="egg", get="collect", span="day | morning",
        opening="{she} [keep] {z hen} | {she} [have] chickens in {his} backyard",
        batch="basket | carton", box="carton | box", spoiled="cracked",
        loses="[use] {c} of <them|the eggs> <to bake a cake|for breakfast> | [drop] {c} of them on the way to the house",
        uses="eat", handling="wash | check", expense="on chicken feed | on straw | to repair the coop",
        aside="The coop [be-] {z year} old",
    ),
    _scene(
        "garden", "stuff", "goods", (25, 200),
        item="tomato | cucumber | pepper | zucchini | carrot | turnip", get="pick", span="day | week",
        opening="{she} [have] a vegetable garden <behind {his} house|> | {she} [spend] the summer working in {his} garden",
        batch="row | bucket", box="bag | basket", spoiled="rotten | spoiled",
        loses="[use] {c} of <them|the {items}> to make <soup|a salad> | [give] {c} of <them|the {items}> to {his} mother",
        uses="eat", handling="wash | weigh", expense="on seeds | on a new watering can | on compost",
        aside="The garden also [have-] {z} rose bushes",
    ),
    _scene(
        "crafts", "stuff", "goods", (300, 2000),
        item="bracelet | necklace | candle | keychain | scarf | pillow | bookmark | pair of earrings", get="make", span="day | week",
        opening="{she} [make] {items} <as a hobby|to sell at the craft fair|in {his} free time> | {she} [have] an online shop",
        batch="set", box="box | gift bag", spoiled="damaged",
        loses="[give] {c} of <them|the {items}> to {his} <sisters|friends|cousins> | [keep] {c} of <them|the {items}> for {himself}",
        uses="give away", handling="finish | wrap | pack", expense="on materials | on wrapping paper | for a table at the fair",
        aside="{She} [have] been making {items} for {z year}",
    ),
    _scene(
        "pottery", "stuff", "goods", (500, 2500),
        item="bowl | mug | vase | plate | flower pot", get="make", span="day | week",
        opening="{she} [be] a potter | {she} [have] a pottery studio <in town|in {his} garage|>",
        batch="set", box="box | crate", spoiled="cracked | broken",
        loses="[break] {c} of them | [give] {c} of <them|the {items}> to {his} <family|friends|students>",
        uses="give away", handling="paint | glaze", expense="on clay | on paint and glaze | to repair the kiln",
        aside="{She} [have] been a potter for {z year} | The kiln [be-] {z year} old",
    ),
    _scene(
        "flowers", "stuff", "goods", (50, 300),
        item="rose | tulip | sunflower | daisy | lily", get="cut", span="hour | day",
        opening="{she} [own] a flower shop | {she} [grow] flowers <for the market|in a greenhouse>",
        batch="bucket | row", box="bouquet | vase", spoiled="wilted",
        loses="[give] {c} of <them|the {items}> to {his} <mother|teacher|aunt> | [put] {c} of <them|the {items}> in {his} own kitchen",
        uses="give away", handling="trim | wrap", expense="on vases and ribbon | on seeds and soil",
        aside="The <shop|greenhouse> [be-] {z year} old",
    ),
    _scene(
        "collection", "stuff", "things", (50, 400),
        item="sticker | marble | stamp | coin | baseball card | seashell | comic book | postcard", get="collect | buy | find", span="week | month",
        opening="{she} [collect] {items} | {she} [be] proud of {his} {item} collection",
        batch="album | jar | box", box="box | page | bag", spoiled="duplicates | <damaged|worn out>",
        loses="[give] {c} of <them|the {items}> to {his} <cousin|best friend|little sister> | [lose] {c} of them | [trade] {c} of them for a poster",
        uses="give away", relation="friend | classmate | cousin", handling="sort | clean",
        aside="{His} <father|grandfather> also [collect-] {items} | {She} [have] been collecting {items} for {z year}",
    ),
    _scene(
        "party", "stuff", "things", (50, 400),
        item="balloon | party hat | lollipop | candy bar | paper cup | whistle", get="buy",
        opening="{she} [be] planning a birthday party <for {his} <son|daughter|best friend>|> | {she} [be] getting ready for a party",
        day1="on Monday | on Friday | in the morning | on the first day",
        batch="bag | pack | box", box="bag | box", spoiled="broken | damaged",
        loses="[give] {c} of <them|the {items}> to <a neighbor|{his} little cousin> | [lose] {c} of them on the way home",
        uses="use", relation="guest | friend | cousin", handling="wrap | count",
        aside="The party [start-] at {z} o'clock | The birthday cake [have-] {z candle} on it",
    ),
    _scene(
        "classroom", "stuff", "things", (25, 300),
        item="pencil | crayon | notebook | marker | eraser | folder | glue stick | paint brush", get="buy",
        opening="{she} [be] a teacher | {she} [be] getting ready for the new school year",
        day1="on Monday | on Friday | in the first week | in August",
        batch="pack | box", box="box | drawer | cup", spoiled="broken | dried out | damaged",
        loses="[give] {c} of <them|the {items}> to <another teacher|a friend> | [lose] {c} of them",
        uses="use", relation="student | friend", handling="label | sort",
        aside="The school [have-] {z} classrooms | School [start-] in {z day}",
    ),
    _scene(
        "kitchen", "stuff", "things", (100, 500),
        item="dumpling | pancake | meatball | sandwich | spring roll | taco | waffle", get="make | cook", span="hour",
        opening="{she} [be] cooking for {his} <whole family|friends> | {she} [be] preparing food for a picnic",
        day1="on Friday | in the morning | on the first day",
        batch="pan | tray | plate", box="container | box | bag", spoiled="burnt | overcooked",
        loses="[eat] {c} of <them|the {items}> | [drop] {c} of them on the floor | [bring] {c} of <them|the {items}> to {his} neighbor",
        uses="eat", relation="guest | friend | cousin", handling="fill | fry | wrap",
        aside="{She} [be] using a recipe that [be-] {z year} old",
    ),
    _scene(
        "basketball", "effort", "points",
        item="point", get="score", hold="score", opening="{she} [play] basketball <for {his} school|on the weekends|>",
        day1="in the first game | in the first half", span="game", session="game", on="in",
        aside="{his} team [have-] {z} players | {his} jersey number [be-] {z}",
    ),
    _scene(
        "pool", "effort", "score",
        item="lap | length", get="swim", hold="swim", handling="swim", opening="{she} [be] on the swim team | {she} [be] training for a swim meet",
        day1="on Monday | on Tuesday | on Friday | in the morning | in the first week", span="day | week", session="day",
        aside="the pool [be-] {z foot} deep",
    ),
    _scene(
        "running", "effort", "score",
        item="lap", get="run", hold="run", opening="{she} [be] training for a <race|marathon> | {she} [love] to run",
        day1="on Monday | on Tuesday | on Friday | in the first week", span="week", session="week", on="in", handling="run",
        aside="the track [be-] {z minute} from {his} house",
    ),
    _scene(
        "music", "effort", "score",
        item="song | piece | exercise", get="practice", hold="practice", handling="practice | play", opening="{she} [play] the <piano|violin|guitar|flute>",
        day1="on Monday | on Tuesday | on Friday | in the morning | in the first week", span="day | week", session="day",
        aside="{she} [have] been taking lessons for {z year}",
    ),
    _scene(
        "office", "effort", "score",
        item="email | letter | card", get="write", hold="write", handling="write", opening="{she} [work] in <an office|a bank|a law firm>",
        day1="on Monday | on Tuesday | on Friday | in the morning | in the first week", span="hour | day", session="day",
        aside="the office [be-] on floor {z}",
    ),
    _scene(
        "babysitting", "wages", "income", (800, 1800), item="family", get="babysit for",
        opening="{she} [babysit] <after school|on the weekends|to earn some money>",
        aside="the oldest child [be-] {z year} old", expense="on snacks and games",
    ),
    _scene(
        "lawns", "wages", "income", (1000, 3000), item="lawn", get="mow",
        opening="{she} [mow] lawns <for {his} neighbors|in the summer>",
        aside="{she} [have] been mowing lawns for {z year}", expense="on gas | to repair the mower",
    ),
    _scene(
        "dogs", "wages", "income", (500, 2000), item="dog", get="walk", opening="{she} [walk] dogs <for {his} neighbors|after school>",
        aside="the largest dog [be-] {z year} old", expense="on leashes | on dog treats",
    ),
    _scene(
        "car wash", "wages", "income", (500, 2500), item="car", get="wash", opening="{she} [work] at a car wash | {she} [wash] cars <in the summer|on the weekends>",
        aside="the car wash [be-] {z mile} from {his} house", expense="on soap and sponges",
    ),
    _scene(
        "tutoring", "wages", "income", (1200, 4000), item="lesson", get="give",
        opening="{she} [be] a <math|French|piano|chess> teacher | {she} [tutor] students in <math|history|physics>",
        aside="{his} youngest student [be-] {z year} old", expense="on books | on worksheets",
    ),
    _scene(
        "restaurant job", "wages", "income", (900, 2000), item="table", get="serve",
        opening="{she} [work] as a <waiter|server> <in a restaurant|at a cafe>",
        aside="the restaurant [have-] {z} tables", expense="on a uniform | on new shoes",
    ),
    _scene(
        "clothes shop", "shopping", "bill", (500, 6000), opening="{she} [go] shopping for <clothes|school clothes> | {she} [need] new clothes",
        things="shirt:20 | jacket:60 | sweater:35 | hat:15 | scarf:12 | dress:45 | belt:18 | pair of jeans:40 | pair of shoes:50 | pair of socks:5",
        aside="the store [be-] {z mile} from {his} house",
    ),
    _scene(
        "grocery store", "shopping", "bill", (100, 900), opening="{she} [go] to the <grocery store|supermarket|market>",
        things="loaf of bread:3 | carton of milk:3 | bag of rice:5 | box of cereal:4 | jar of honey:7 | bottle of juice:3 | pack of cheese:5 | bag of apples:6 | pizza:8",
        aside="there [be+] {z} people in line in front of {him}",
    ),
    _scene(
        "school supplies", "shopping", "bill", (100, 1200), opening="{she} [buy] supplies for <school|{his} class|the office>",
        things="notebook:3 | backpack:35 | calculator:18 | binder:5 | pack of paper:6 | box of pens:4 | ruler:2 | lamp:22",
        aside="the new school year [start-] in {z day}",
    ),
    _scene(
        "cafe", "shopping", "bill", (200, 1500), opening="{she} [take] {his} family out <for lunch|to dinner> | {she} [order] food for {his} friends",
        things="sandwich:8 | salad:9 | bowl of soup:6 | burger:10 | glass of lemonade:3 | slice of cake:4 | plate of pasta:12 | cup of coffee:3",
        aside="they [wait+] {z minute} for a table",
    ),
    _scene(
        "hardware store", "shopping", "bill", (300, 4000), opening="{she} [be] renovating {his} <kitchen|house|garage> | {she} [go] to the hardware store",
        things="can of paint:25 | hammer:16 | brush:6 | ladder:70 | box of nails:5 | saw:24 | bucket:7 | lamp:22 | pair of gloves:8",
        aside="the house [be-] {z year} old",
    ),
    _scene(
        "library", "reading", "pages", item="page", get="read", opening="{she} [love] to read | {she} [borrow] a book from the library | {she} [have] to read a <book|novel> for school",
        day1="on Monday | on Tuesday | on Friday | in the morning | on the first day",
        aside="{she} also [borrow] {z} magazines | the book [be-] {z year} old",
    ),
    _scene(
        "road trip", "driving", "miles", (250, 500), item="mile", opening="{she} [visit] {his} <grandparents|sister|best friend> in another city | {she} [go] on a road trip",
        drive="drive", vehicle="car", aside="the car [be-] {z year} old",
    ),
    _scene(
        "delivery", "driving", "miles", (250, 500), item="mile", opening="{she} [drive] a <delivery van|truck> | {she} [work] for a <delivery|moving> company",
        drive="drive", vehicle="van", aside="{she} [have] been driving for {z year}",
    ),
    _scene(
        "school", "people", "people", (50, 400), opening="{she} [be] <the principal of a school|a teacher>", crowd="student",
        group="class | grade", team="team | group", car="bus | van", things="pencil | notebook | folder | worksheet",
        aside="the school [be-] {z year} old", event="school play | science fair | school trip",
    ),
    _scene(
        "camp", "people", "people", (100, 600), opening="{she} [run] a summer camp | {she} [work] at a summer camp", crowd="camper | child",
        group="cabin | bus", team="team | group", car="van | boat", things="sandwich | bottle of water | granola bar | marshmallow",
        aside="the lake [be-] {z mile} away", event="talent show | hike",
    ),
    _scene(
        "theater", "people", "people", (500, 2500), opening="{she} [manage] a <theater|cinema|concert hall>", crowd="visitor | guest",
        group="tour group | row", team="group", car="elevator | shuttle", things="program | cup of water",
        aside="the show [last-] {z hour}", event="show | concert",
    ),
    _scene(
        "stable", "feeding", "food", (500, 2500), opening="{she} [work] at a <stable|zoo|ranch> | {she} [run] a ranch",
        animal="horse | cow | donkey | goat", food="pound of hay | pound of grain", aside="the barn [be-] {z year} old",
    ),
    _scene(
        "shelter", "feeding", "food", (300, 2000), opening="{she} [volunteer] at an animal shelter | {she} [run] an animal shelter",
        animal="dog | cat | rabbit", food="cup of food", aside="the shelter [be-] open for {z hour} a day",
    ),
    _scene(
        "homework", "studying", "minutes", item="minute", opening="{she} [have] a lot of <homework|studying> to do | {she} [be] studying for a test",
        subjects="math | history | science | English | geography | Spanish", aside="{his} desk [be-] {z foot} wide",
    ),
    _scene(
        "backyard", "yard", "length", (200, 1200), opening="{she} [be] building a fence around {his} <garden|yard|chicken coop> | {she} [want] to put a fence around {his} <garden|field>",
        aside="the house [be-] {z year} old",
    ),
)  # fmt: skip
