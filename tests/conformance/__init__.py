"""The zoo against numbers recorded from the 2019 system; see README.md in this folder."""
