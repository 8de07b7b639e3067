"""Rows as the documentation of each format has them (our own words in their shape)."""

from __future__ import annotations

from typing import Any

VIDEO_R1: dict[str, Any] = {
    "problem_id": 2,
    "problem": "What does the cat do at the end?",
    "data_type": "video",
    "problem_type": "multiple choice",
    "options": ["A. It sleeps", "B. It jumps", "C. It eats", "D. It hides"],
    "process": "<think>Let me see. It bends its legs, and then it is in the air.</think>",
    "solution": "<answer>B</answer>",
    "path": "./CLEVRER/train_video/video_1.mp4",
    "data_source": "CLEVRER",
}
ECHOINK: dict[str, Any] = {
    "problem_id": 7,
    "problem": "What is the source of the sound?",
    "data_type": "image_audio",
    "problem_type": "multiple choice",
    "options": ["A. a dog", "B. a bell", "C. rain", "D. a car"],
    "solution": "<answer>B</answer>",
    "path": {"image": "images/sample_7.jpg", "audio": "audios/sample_7.wav"},
    "data_source": "OmniInstruct_v1-AVQA",
}
LLAVA: dict[str, Any] = {
    "id": "000000033471",
    "image": "coco/train2017/000000033471.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat are the colours of the bus?"},
        {"from": "gpt", "value": "White and red."},
        {"from": "human", "value": "Which side of it is seen?"},
        {"from": "gpt", "value": "The back of the bus."},
    ],
}
LLAMA_FACTORY: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "You watch and listen."},
        {"role": "user", "content": "<video><audio>What is the girl drawing? Look at <image> too."},
        {"role": "assistant", "content": "A guitar."},
    ],
    "images": ["mllm_demo_data/1.jpg"],
    "videos": ["mllm_demo_data/4.mp4"],
    "audios": ["mllm_demo_data/4.mp3"],
}
EASYR1: dict[str, Any] = {
    "images": ["geo/1.png", "geo/2.png"],
    "problem": "<image>Find x, given <image>.",
    "answer": "2 \\sqrt { 221 }",
    "id": 0,
}
VERL: dict[str, Any] = {
    "data_source": "hiyouga/geometry3k",
    "prompt": [{"role": "user", "content": "<image>Find x. Think step by step."}],
    "images": ["geo/1.png"],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "48"},
    "extra_info": {"split": "train", "index": 0, "answer": "48", "question": "<image>Find x."},
}
TRL: dict[str, Any] = {
    "prompt": [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "What colour is the sky in the picture?"}],
        }
    ],
    "completion": [{"role": "assistant", "content": [{"type": "text", "text": "It is blue."}]}],
    "images": ["sky.png"],
}
R1_AQA: dict[str, Any] = {
    "id": 183,
    "video_name": "-HG3Omg_89c_000030",
    "video_id": 341,
    "question_text": "What happened in the video?",
    "multi_choice": ["motorboat", "Yacht consignment", "Sailboat set sail", "Consignment car"],
    "answer": 1,
    "question_relation": "View",
    "question_type": "Happening",
    "dataset_name": "AVQA",
    "audio_path": "wav/-HG3Omg_89c_30.wav",
}
OMNI_INSTRUCT: dict[str, Any] = {
    "question": "What is the source of the sound?",
    "options": ["a dog", "a bell", "rain", "a car"],
    "answer": "rain",
    "source": "AVQA",
    "audio": {"bytes": b"RIFF", "path": "a.wav"},
    "image": {"bytes": b"PNG!", "path": "a.jpg"},
}
