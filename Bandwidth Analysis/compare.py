"""`leanfed compare`, from a checkout: python "Bandwidth Analysis/compare.py" RUN RUN --link poor_3g."""

from fl.compare.__main__ import main

if __name__ == "__main__":
    main()
