"""Files <-> volumes and pictures: NIfTI, DICOM, PNG and TIFF in, NIfTI out; atomic writes."""
