"""The words of StoryWorld in tables: what there is, and what belongs together.

Longer than other files because it is data.
"""

from typing import NamedTuple


class Person(NamedTuple):
    """A part that a man or a woman can play."""

    male: str
    female: str
    males: str
    females: str
    cls: str
    age: str


class Levels(NamedTuple):
    """How much of each scale a grown animal has, from 0 to 9; the young one has half."""

    size: int
    speed: int
    strength: int
    voice: int


class Animal(NamedTuple):
    """A species: its nouns, what it says and eats, where it is mostly found."""

    grown: str
    young: str
    growns: str
    youngs: str
    taxon: str
    sound: str
    food: str
    haunt: str
    levels: Levels


class Verb(NamedTuple):
    """The forms of a verb, the word that joins a place to what it says and the particle it needs."""

    base: str
    third: str
    past: str
    joint: str = "in"
    particle: str = ""


class Land(NamedTuple):
    """A country, its capital, its language and what it is known for."""

    name: str
    capital: str
    language: str
    good: str


def _rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()]


def _lists(table: str) -> dict[str, tuple[str, ...]]:
    return {head: tuple(words) for head, *words in _rows(table)}


PERSONS = tuple(
    Person(*row)
    for row in _rows("""
    man          woman        men           women          common  grown
    boy          girl         boys          girls          common  young
    king         queen        kings         queens         royal   grown
    prince       princess     princes       princesses     royal   young
    emperor      empress      emperors      empresses      royal   grown
    duke         duchess      dukes         duchesses      noble   grown
    lord         lady         lords         ladies         noble   grown
    wizard       witch        wizards       witches        magic   grown
    sorcerer     sorceress    sorcerers     sorceresses    magic   grown
    monk         nun          monks         nuns           temple  grown
    priest       priestess    priests       priestesses    temple  grown
    father       mother       fathers       mothers        family  grown
    son          daughter     sons          daughters      family  young
    brother      sister       brothers      sisters        family  young
    uncle        aunt         uncles        aunts          family  grown
    grandfather  grandmother  grandfathers  grandmothers   family  grown
    actor        actress      actors        actresses      stage   grown
    poet         poetess      poets         poetesses      stage   grown
    waiter       waitress     waiters       waitresses     inn     grown
    host         hostess      hosts         hostesses      inn     grown
    hero         heroine      heroes        heroines       war     grown
    hunter       huntress     hunters       huntresses     war     grown
    """)
)

ANIMALS = tuple(
    Animal._make((*row[:8], Levels(*map(int, row[8:]))))
    for row in _rows("""
    dog    puppy     dogs    puppies    mammal   bark     bone    street   4 7 5 7
    cat    kitten    cats    kittens    mammal   meow     fish    kitchen  3 6 3 3
    cow    calf      cows    calves     mammal   moo      grass   meadow   8 3 7 6
    horse  foal      horses  foals      mammal   neigh    hay     field    8 9 8 5
    goat   kid       goats   kids       mammal   bleat    script  abbey    5 5 6 7
    bear   cub       bears   cubs       mammal   growl    honey   forest   9 6 9 8
    hen    chick     hens    chicks     bird     cluck    seed    barn     2 2 1 4
    duck   duckling  ducks   ducklings  bird     quack    bread   pond     3 3 2 6
    swan   cygnet    swans   cygnets    bird     honk     berry   park     5 4 4 2
    eagle  eaglet    eagles  eaglets    bird     screech  fish    nest     5 9 5 8
    frog   tadpole   frogs   tadpoles   swimmer  croak    leaf    garden   1 3 1 6
    seal   whelp     seals   whelps     swimmer  snort    shell   river    7 5 6 3
    """)
)

PETS = ("dog", "cat", "horse", "goat")

LANDS = tuple(
    Land(*row)
    for row in _rows("""
    arvia    tolem   arvian    silk
    borland  casten  borlish   salt
    cyrene   dovar   cyrenic   iron
    dranos   elbury  dranian   wool
    estmar   fallow  estish    amber
    ferrin   gorth   ferric    honey
    galdor   hask    galdic    spice
    helmar   irden   helmish   glass
    istria   jorvik  istrian   copper
    jutland  kell    jutish    tea
    """)
)

NAMES = _lists("""
    male    tom jack harry oliver arthur felix hugo leo oscar simon
    female  anna clara ella grace ivy lucy maria nora ruby sophie
""")

VERBS = tuple(
    Verb(*row)
    for row in _rows("""
    see       sees       saw
    find      finds      found
    want      wants      wanted
    like      likes      liked
    take      takes      took
    need      needs      needed
    build     builds     built
    carry     carries    carried
    rule      rules      ruled       from
    command   commands   commanded   from
    own       owns       owned
    ride      rides      rode
    enchant   enchants   enchanted
    conjure   conjures   conjured
    bless     blesses    blessed
    pray      prays      prayed      in    for
    cook      cooks      cooked
    clean     cleans     cleaned
    perform   performs   performed
    rehearse  rehearses  rehearsed
    serve     serves     served
    pour      pours      poured
    fight     fights     fought
    defend    defends    defended
    play      plays      played      in    with
    chase     chases     chased
    guard     guards     guarded
    watch     watches    watched     from
    eat       eats       ate
    smell     smells     smelled
    help      helps      helped
    love      loves      loved
    wear      wears      wore
    go        goes       went        in    to
    speak     speaks     spoke
    bark      barks      barked
    meow      meows      meowed
    moo       moos       mooed
    neigh     neighs     neighed
    bleat     bleats     bleated
    growl     growls     growled
    cluck     clucks     clucked
    quack     quacks     quacked
    honk      honks      honked
    screech   screeches  screeched
    croak     croaks     croaked
    snort     snorts     snorted
    """)
)

# Verbs by those who do them; as a rule each of those who share a list has another favourite.
HABITS = _lists("""
    any     find want like take need
    social  help see wear love go speak
    common  build carry
    royal   rule command ride
    noble   own ride
    magic   enchant conjure
    temple  bless pray
    family  cook clean carry
    stage   perform rehearse
    inn     serve pour
    war     fight defend
    young   play chase
    grown   guard watch
    animal  eat smell
""")

# What a verb is done to; a verb that isn't named here is done to anything.
OBJECTS = _lists("""
    see       fire banner kite mask
    find      box stone map treasure
    want      crown goblet toy costume
    like      song bread honey
    take      lamp cart shield ale
    need      hammer ladder blanket broom
    build     cart ladder bridge
    carry     stone hammer box
    rule      kingdom village
    command   army fortress
    own       estate carriage goblet horse
    ride      horse carriage cow foal
    enchant   broom lamp mask frog kettle
    conjure   potion soup treasure kite
    bless     candle bell bread scroll
    cook      soup fish bread
    clean     kettle lamp blanket carriage pillow
    perform   song costume
    rehearse  script mask
    serve     soup bread fish
    pour      ale tea potion
    defend    kingdom banner bridge
    play      toy ball stone
    chase     kite hen frog duck
    guard     gate bridge treasure
    watch     fire garden treasure
    eat       grass fish seed bone hay honey bread berry leaf shell script soup
    smell     grass fish seed bone hay honey bread berry leaf soup ale fire
""")

# What anybody can have, by those who care for it most.
THINGS = _lists("""
    any     box stone lamp map
    common  cart hammer ladder bridge
    royal   crown throne scepter kingdom army
    noble   estate carriage goblet
    magic   wand potion spellbook
    temple  candle bell scroll
    family  kettle blanket broom basket pillow
    stage   mask script costume song
    inn     soup bread ale
    war     sword shield banner
    young   toy ball kite
    grown   gate treasure fire
    animal  grass fish seed bone hay berry leaf shell
""")

PLACES = _lists("""
    any      street field
    common   village workshop school
    royal    palace castle court
    noble    manor park
    magic    tower cave
    temple   temple abbey
    family   kitchen cottage garden
    stage    theatre hall
    inn      tavern cellar
    war      fortress camp
""")

# Where animals are at home, and persons aren't.
WILDS = _lists("""
    mammal   barn forest
    bird     nest meadow
    swimmer  pond river
""")

# Singulars and plurals in turn; what not all of a gender wear stands apart.
CLOTHES = _lists("""
    male        suit suits tie ties
    male_grown  beard beards
    female      gown gowns necklace necklaces bonnet bonnets
""")

FINERY = {"male": "armour", "female": "lace"}

LOOKS = _lists("""
    any     kind brave gentle clever
    male    handsome gallant
    female  beautiful graceful
    young   playful shy
    grown   old weary
""")

# Both ends of each scale with their degrees.
SCALES = {
    scale: (tuple(row[:3]), tuple(row[3:]))
    for scale, *row in _rows("""
    size      small  smaller  smallest  big     bigger    biggest
    speed     slow   slower   slowest   fast    faster    fastest
    strength  weak   weaker   weakest   strong  stronger  strongest
    voice     quiet  quieter  quietest  loud    louder    loudest
    """)
}

# A class of animals and its plural.
TAXA = {"mammal": "mammals", "bird": "birds", "swimmer": "swimmers", "animal": "animals"}

FUNCTION_WORDS = _lists("""
    verbs        are be had is named sell was were will
    pronouns     he her herself himself his its she their themselves they who
    determiners  a all an many one the two
    joints       . and at for from in than to with
    times        day once tomorrow yesterday
    others       capital people there young
""")
