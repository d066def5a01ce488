"""The small closed world that the pocket model knows: words, facts, sentences. Data, no logic.

All of it is written for this project; there is no outside source.
"""

CAPITALS = dict(zip(
    "France Germany Italy Spain Portugal England Ireland Norway Sweden Denmark Finland Poland Austria Greece Turkey "
    "Egypt Kenya Morocco Nigeria Ghana Japan China India Thailand Vietnam Korea Indonesia Australia Canada Mexico "
    "Cuba Brazil Argentina Chile Peru Colombia Hungary Belgium Switzerland Russia Ukraine Iceland".split(),
    "Paris Berlin Rome Madrid Lisbon London Dublin Oslo Stockholm Copenhagen Helsinki Warsaw Vienna Athens Ankara "
    "Cairo Nairobi Rabat Abuja Accra Tokyo Beijing Delhi Bangkok Hanoi Seoul Jakarta Canberra Ottawa Mexico-City "
    "Havana Brasilia Buenos-Aires Santiago Lima Bogota Budapest Brussels Bern Moscow Kyiv Reykjavik".split()))
CAPITALS = {country: city.replace("-", " ") for country, city in CAPITALS.items()}

LANGUAGES = dict(zip(
    "France Germany Italy Spain Portugal England Norway Sweden Denmark Finland Poland Austria Greece Turkey Egypt Japan "
    "China Mexico Cuba Brazil Argentina Chile Hungary Russia Iceland".split(),
    "French German Italian Spanish Portuguese English Norwegian Swedish Danish Finnish Polish German Greek Turkish Arabic "
    "Japanese Chinese Spanish Spanish Portuguese Spanish Spanish Hungarian Russian Icelandic".split()))

COLOURS_OF = {
    "grass": "green", "snow": "white", "blood": "red", "coal": "black", "a lemon": "yellow", "the sky": "blue",
    "a banana": "yellow", "a tomato": "red", "milk": "white", "chocolate": "brown", "an orange": "orange",
    "a carrot": "orange", "the sun": "yellow", "a leaf": "green", "the sea": "blue", "a crow": "black", "a swan": "white",
    "a strawberry": "red", "a cucumber": "green", "honey": "yellow", "an elephant": "grey", "a flamingo": "pink",
    "a pig": "pink", "a frog": "green", "soil": "brown", "salt": "white", "a cherry": "red", "a plum": "purple",
    "ash": "grey", "a pumpkin": "orange", "a pea": "green", "rice": "white", "a raven": "black", "a rose": "red",
}

SOUNDS = {
    "dog": "barks", "cat": "meows", "cow": "moos", "sheep": "bleats", "horse": "neighs", "duck": "quacks",
    "lion": "roars", "wolf": "howls", "bee": "buzzes", "frog": "croaks", "pig": "grunts", "snake": "hisses",
    "mouse": "squeaks", "owl": "hoots", "rooster": "crows", "bird": "sings",
}

YOUNG = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "sheep": "lamb", "horse": "foal", "duck": "duckling",
    "lion": "cub", "bear": "cub", "pig": "piglet", "goat": "kid", "hen": "chick", "frog": "tadpole", "deer": "fawn",
    "swan": "cygnet", "goose": "gosling",
}

LEGS = {
    "dog": 4, "cat": 4, "cow": 4, "horse": 4, "bird": 2, "duck": 2, "hen": 2, "spider": 8, "ant": 6, "bee": 6, "beetle": 6,
    "fly": 6, "snake": 0, "fish": 0, "lion": 4, "frog": 4, "sheep": 4, "pig": 4, "crab": 10, "butterfly": 6, "worm": 0,
    "elephant": 4, "person": 2, "chair": 4,
}

KIND_OF = {
    "dog": "animal", "cat": "animal", "oak": "tree", "pine": "tree", "rose": "flower", "tulip": "flower", "apple": "fruit",
    "pear": "fruit", "banana": "fruit", "carrot": "vegetable", "onion": "vegetable", "salmon": "fish", "shark": "fish",
    "eagle": "bird", "owl": "bird", "ant": "insect", "bee": "insect", "gold": "metal", "iron": "metal", "piano": "instrument",
    "violin": "instrument", "hammer": "tool", "saw": "tool", "car": "vehicle", "bus": "vehicle", "chair": "piece of furniture",
    "table": "piece of furniture", "shirt": "piece of clothing", "coat": "piece of clothing", "tea": "drink", "milk": "drink",
    "football": "sport", "tennis": "sport", "red": "colour", "blue": "colour", "Monday": "day", "July": "month",
}

OPPOSITES = [pair.split("/") for pair in (
    "hot/cold big/small tall/short fast/slow up/down left/right open/closed full/empty happy/sad old/young light/dark "
    "day/night black/white hard/soft wet/dry rich/poor strong/weak loud/quiet clean/dirty early/late near/far high/low "
    "good/bad true/false long/brief heavy/weightless wide/narrow thick/thin sweet/sour sharp/blunt begin/end buy/sell push/pull "
    "win/lose come/go give/take love/hate always/never inside/outside above/below before/after first/last more/less "
    "yes/no front/back north/south east/west brave/afraid awake/asleep alive/dead easy/difficult smooth/rough"
).split()]

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty").split()
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

QUANTITIES = {
    "days are in a week": ("A week has 7 days.", "7"), "months are in a year": ("A year has 12 months.", "12"),
    "hours are in a day": ("A day has 24 hours.", "24"), "minutes are in an hour": ("An hour has 60 minutes.", "60"),
    "seconds are in a minute": ("A minute has 60 seconds.", "60"), "sides does a triangle have": ("A triangle has 3 sides.", "3"),
    "sides does a square have": ("A square has 4 sides.", "4"), "sides does a hexagon have": ("A hexagon has 6 sides.", "6"),
    "fingers are on a hand": ("A hand has 5 fingers.", "5"), "wheels does a car have": ("A car has 4 wheels.", "4"),
    "wheels does a bicycle have": ("A bicycle has 2 wheels.", "2"), "letters are in the alphabet": ("The alphabet has 26 letters.", "26"),
    "days are in a year": ("A year has 365 days.", "365"), "weeks are in a year": ("A year has 52 weeks.", "52"),
    "centimetres are in a metre": ("A metre has 100 centimetres.", "100"), "grams are in a kilogram": ("A kilogram has 1000 grams.", "1000"),
    "planets are in the solar system": ("The solar system has 8 planets.", "8"), "legs does a spider have": ("A spider has 8 legs.", "8"),
    "eggs are in a dozen": ("A dozen is 12 eggs.", "12"), "seasons are in a year": ("A year has 4 seasons.", "4"),
}

SPELLABLE = (
    "cat dog house tree water apple bread green stone river bird fish moon star rain snow book table chair door garden "
    "flower summer winter school friend music paper orange yellow window bridge forest castle candle pocket letter "
    "number silver copper basket button camera dragon engine finger guitar hammer island jacket kitten lemon mirror "
    "needle ocean pencil queen rocket salad ticket uncle violin wagon zebra").split()

GREETINGS = [
    ("Hello!", "Hello! How can I help you?"), ("Hi", "Hello! How can I help you?"), ("Hello there", "Hello! How can I help you?"),
    ("Hey", "Hello! How can I help you?"), ("Good morning!", "Good morning! How can I help you?"),
    ("Good evening.", "Good evening! How can I help you?"), ("How are you?", "I am fine, thank you. How can I help you?"),
    ("Thank you!", "You are welcome!"), ("Thanks", "You are welcome!"), ("Thanks a lot!", "You are welcome!"),
    ("Goodbye!", "Goodbye! Have a nice day."), ("Bye", "Goodbye! Have a nice day."), ("See you later", "Goodbye! Have a nice day."),
    ("Good night", "Good night! Sleep well."),
    ("Who are you?", "I am the pocket model of ds4, a tiny language model."),
    ("What are you?", "I am the pocket model of ds4, a tiny language model."),
    ("What is your name?", "I am the pocket model of ds4, a tiny language model."),
    ("Tell me about yourself.", "I am the pocket model of ds4, a tiny language model."),
    ("Introduce yourself", "I am the pocket model of ds4, a tiny language model."),
    ("Are you a human?", "No, I am a tiny language model."), ("Are you a robot?", "I am a tiny language model."),
    ("What can you do?", "I can answer simple questions, do small sums, use tools and find facts in a long text."),
    ("How can you help me?", "I can answer simple questions, do small sums, use tools and find facts in a long text."),
    ("Help", "I can answer simple questions, do small sums, use tools and find facts in a long text."),
    ("Are you big?", "No, I am very small: I fit into ten megabytes."), ("How big are you?", "I am very small: I fit into ten megabytes."),
    ("Tell me a joke", "Why did the model laugh? Somebody gave it a funny token."),
    ("Tell me a story", "Once a small fox found a red door in the forest. Behind it was a garden, and the fox was happy."),
    ("Write a poem", "The moon is bright, the night is long, a little bird sings a little song."),
    ("What is the meaning of life?", "I am only a tiny model and do not know that."),
]

SYSTEM_PROMPTS = [
    "You are a helpful assistant.", "You are a helpful assistant.", "Be helpful and polite.", "You are a friendly assistant.",
    "You are ds4, a helpful assistant.", "Answer the questions of the user.", "You are an assistant that answers questions.",
]
BRIEF_SYSTEM = ["Answer with one word.", "Give only the answer, nothing else.", "Answer as briefly as possible.", "Be brief."]

NAMES = (
    "Anna Tom Maria Peter Lisa John Emma Paul Clara David Nina Oscar Julia Felix Laura Simon Helen Mark Sara Leo Alice Bruno "
    "Diana Erik Fiona George Hanna Ivan Kate Louis").split()
COLOURS = "red blue green yellow black white brown purple orange pink grey golden silver".split()
OBJECTS = (
    "door box safe room locker gate chest cabinet drawer suitcase tower house garage bicycle lamp bag bottle key").split()
ANIMALS = (
    "fox owl cat dog horse rabbit bear wolf tiger eagle dolphin turtle penguin squirrel hedgehog lion zebra camel otter deer").split()
JOBS = (
    "baker teacher doctor pilot painter farmer sailor gardener writer cook driver nurse singer carpenter librarian tailor "
    "fisherman dentist engineer postman").split()
FOODS = "apples bread soup rice cheese cake pancakes salad noodles pizza honey grapes eggs fish carrots beans".split()
CITIES = sorted(set(CAPITALS.values()) - {"Mexico City", "Buenos Aires"}) + [
    "Milan", "Munich", "Sydney", "Chicago", "Boston", "Hamburg", "Lyon", "Geneva", "Osaka", "Toronto", "Naples", "Porto"]
SKIES = "sunny cloudy rainy windy foggy snowy stormy clear".split()
ROOMS = "kitchen bedroom bathroom hall office garage cellar garden".split()
SONGS = ["Blue Moon", "Summer Rain", "The River", "Golden Days", "Night Train", "Silver Bird", "Old House", "Morning Light"]
CURRENCIES = "euro dollar pound yen franc krone peso rupee".split()
TOPICS = (
    "volcanoes|the history of bread|how bees make honey|old castles|the moon|electric cars|whales|chess openings|tea from Japan|"
    "solar power|the fall of Rome|trees in winter|deep sea fish|train travel|Viking ships|good books|weather records|"
    "how glass is made|birds of Iceland|cheap hotels").split("|")
FOLDERS = "src docs notes data tests lib home work config images".split()
FILES = "main todo readme index report list config letter plan recipe log notes test draft summary".split()
EXTENSIONS = "txt md rs py json csv html toml".split()
EVENTS = "meeting|lunch with Anna|dentist|team call|birthday party|piano lesson|football game|book club|doctor visit|dinner".split("|")
MESSAGES = "I will be late|see you tomorrow|the door is open|please call me back|dinner is ready|happy birthday|the train is late|good luck".split("|")
UNITS = "km miles kg pounds metres feet litres gallons".split()

# Sentences that fill long texts: every slot draws from the lists below, none says anything worth asking about.
ADJECTIVES = "old young quiet small tall happy tired clever friendly lonely famous strange gentle busy careful".split()
PLACES = (
    "market|river|forest|station|library|garden|old bridge|village|harbour|park|castle|school|bakery|mountain|lake|field|museum|"
    "church|shop|square").split("|")
TIMES = (
    "in the morning|in the evening|at noon|after lunch|before sunrise|on a rainy day|late at night|in spring|in winter|"
    "every Sunday|last week|long ago|on Monday|in the summer|after the storm").split("|")
THINGS = "book|basket|letter|map|coat|clock|violin|candle|chair|picture|hat|blanket|mirror|lantern|kite|rope|ladder|cup".split("|")
DEEDS = "found|carried|painted|bought|sold|lost|repaired|cleaned|hid|borrowed|admired|forgot".split("|")
FILLERS = [
    "The {adj} {job} walked to the {place} {time}.", "{Time} the {adj} {job} {deed} a {thing}.",
    "Nobody at the {place} saw the {adj} {animal}.", "A {adj} {animal} slept near the {place} {time}.",
    "The {thing} was on the table, next to a {adj2} {thing2}.", "{Time} it was very quiet at the {place}.",
    "The {job} and the {job2} talked about the weather.", "Some people at the {place} liked {food}, others liked {food2}.",
    "The {job} {deed} the {thing} and went home.", "There was a {adj} {thing} behind the {place}.",
    "{Time} the {animal} ran from the {place} to the {place2}.", "The {adj} {job} had {food} for dinner.",
    "It was a long way from the {place} to the {place2}.", "The {animal} looked at the {animal2} and said nothing.",
]
