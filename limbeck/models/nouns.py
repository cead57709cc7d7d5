"""Short English nouns, all different: the keys of the dictionaries that a probe asks for."""

_TEXT = """
acorn actor angle ankle apple apron arena arrow atom aunt badge baker ball band bank barn basin basket beach
bean bear bell belt bench bird blade board boat bone book boot bottle bowl box bread brick bridge broom brush
bucket bull button cabin cake camel camp candle canoe card carpet carrot cart castle cave chain chair chalk
cheese cherry circle city clock cloud coach coal coast coat coin copper corn cotton couch crane cream crown
cup curtain dance desk dish doctor dog door dragon drawer dress drum duck eagle ear earth egg engine fair farm
feather fence field finger fire fish flag flower flute forest fork fox frame frog fruit garden gate ghost
giant glass glove goat gold goose grain grape grass guitar hall hammer hand harbor hat hawk heart hill honey
hook horn horse hotel house ink iron island jacket jar jewel judge juice king kitchen kite knife ladder
lake lamp leaf leather lemon letter library lion lizard lock lunch magnet map maple market mask meadow metal
milk mill mirror money moon mother motor mouse museum music nail neck needle nest night nose nurse oak ocean
office oil olive onion orange oven owl paint palace paper park path pear pencil pepper piano picture pig pilot
pipe planet plate pocket poet pony pool potato prince purse queen rabbit radio rain ribbon rice ring river
road robe rock roof room rope rose salt sand school sea seed shadow sheep shelf ship shirt shoe shop silk
silver singer sister sky snake snow soap sock song soup spider spoon spring square stable star steam stone
storm stove street sugar sun table tail tea teacher temple tent thread throat ticket tiger tooth tower town
toy train tree truck trumpet tunnel turtle uncle valley vase village violin voice wagon wall water wheat wheel
window wing winter wolf wood wool yard zebra
"""
NOUNS = tuple(_TEXT.split())
