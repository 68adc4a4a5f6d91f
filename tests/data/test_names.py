"""What the names of scans tell, in the words of many data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from medrd.data.names import name_and_modality, named_kind


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "flair",
            "x_flair tiny_2_flair x-t2f sub-01_FLAIR sub-01_space-T1w_FLAIR x_flair_to_T1",
        ),
        ("flair", "ADNI_002_S_0413_MR_Axial_T2_FLAIR_Br_20210301 UCSF-PDGM-0004_FLAIR_bias"),
        ("t1", "x_t1 x-t1n sub-01_T1w IXI002-Guys-0828-T1 x.T1 x_MPRAGE sub-01_T1w_brain"),
        ("t1", "ADNI_002_S_0295_MR_MP-RAGE__br_raw_2 ADNI_1_MR_Accelerated_SAG_IR-SPGR_Br_1"),
        (
            "t1ce",
            "x_t1ce x-t1c x_T1c x_T1GD x_t1gd x_T1_GD x_T1Gd x_T1post x_T1wCE x_T1+C x_T1c_bias",
        ),
        ("t1ce", "UPENN-GBM-00001_11_T1GD sub-01_ce-gad_T1w x_T1_post_reg x_MPRAGE_gad_1"),
        ("t2", "x_t2 x_2_t2 x-t2w sub-01_T2w UPENN-GBM-00001_11_T2 ADNI_1_MR_Axial_T2_TSE_Br_1"),
        ("adc", "UCSF-PDGM-0004_ADC"),
        ("t1", "sub_t1_brain x_T1_bet x_t1mprage sub-01_T1w_n4_brain"),
        ("t1ce", "x_cT1w x_postcontrast_T1 x_T1c_unstripped x_t1gd_brain"),
        ("flair", "x_flair_brain x_FLAIR_0000 UPENN-GBM-00001_11_FLAIR_unstripped"),
        ("label", "seg x_brainmask sub-01_T1w_roi TCGA-02-0003_1997.06.08_GlistrBoost x.seg"),
        ("label", "x_seg x-seg x_Segm UCSF-PDGM-0004_tumor_segmentation x_MASK sub-01_dseg"),
        ("label", "x_gt x_mask1 ManualSegmentation_1 Consensus x_seg_2 x_msk x_ground_truth"),
        ("flair", "x_3DFLAIR x_FLAIR-3D x_FLAIR2_1 x_FLAIR3D_reg"),
        ("t1", "x_T1_pre_contrast x_T1w_without_gd sub-01_inplaneT1"),
        ("t1ce", "x_MPRAGE_KM x_T1_mprage_post x_T1w_tra_km"),
        ("t1", "x_T1_postop_2"),
        ("dti", "UCSF-PDGM-0004_DTI_eddy_FA UPENN-GBM-00001_11_DTI_AD"),
        ("dsc", "UPENN-GBM-00001_11_DSC_PH"),
        ("rcbv", "UPENN-GBM-00001_11_DSC_ap-rCBV"),
        ("t1map", "sub-01_T1map"),
        ("swi", "x_SWI_mIP"),
        ("t1", "sub-01_UNIT1 x_T1_weighted x_T1WI x_T1-weighted_1 x_t1_without_contrast"),
        ("t1ce", "x_T1WI+C x_CT1_r2s_bet"),
        ("t2", "x_T2WI x_T2-weighted x_T2_weighted_2"),
        ("t2_star", "ADNI_002_S_0413_MR_Axial_T2_STAR_Br"),
        ("label", "BraTS-MEN-RT-0001-1_gtv VSD.Brain_3more.XX.O.OT.54517"),
        ("flair", "VSD.Brain.XX.O.MR_Flair.54512"),
        (None, "x scan abct BraTS-GLI-00003-000 patient_t1_scan anna_ce flair2t1 t1w_and_t2w_of"),
    ],
)
def test_the_kind_is_known_in_any_case(kind: str | None, names: str) -> None:
    for name in names.split():
        for spelt in (name, name.upper() if kind else name):
            assert named_kind(Path(f"{spelt}.nii.gz")) == kind, spelt


def test_the_ending_is_taken_off_the_subject() -> None:
    for name, own, kind in (
        ("UPENN-GBM-00001_11_T1GD", "UPENN-GBM-00001_11", "t1ce"),
        ("sub-01_ce-gad_run-2_T1w", "sub-01_run-2", "t1ce"),
        ("head_FLAIR", "head", "flair"),
        ("T1", "", "t1"),
    ):
        assert name_and_modality(Path(f"{name}.nii")) == (own, kind)
